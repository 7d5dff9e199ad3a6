"""Emitters, routers, deliverers, listeners and PostgreSQL are killed while transactions commit late.

Every change that was committed has its event, every event is delivered and listened to, none that was undone
is, and what comes twice is bounded by what was in flight at each kill. ``make chaos N=1000`` kills a thousand
times, with the leases of production; otherwise it is a handful, with short ones.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.engine import make_url

from atlas.config import Settings
from atlas.db import Database
from atlas.events import EventBus
from tests.support.children import events_child
from tests.support.children.events_child import BATCH, ENTITIES
from tests.support.events import SECRET, verified
from tests.support.servers.cluster import Cluster
from tests.support.servers.http import LoopbackServer, Reply, Request, loopback_server
from tests.support.sql import execute, fetch, scalar

KILLS = int(os.environ.get("ATLAS_CHAOS", "8"))
SEED = int(os.environ.get("ATLAS_CHAOS_SEED", "1"))
#: Seconds in which all is delivered after the last kill: a lost event fails it, a busy machine does not.
RECOVERY = 120.0
IN_FLIGHT = 10
TEAM = ("emitter", "emitter", "router", "deliverer", "deliverer", "listener")
VICTIMS = ("emitter", "router", "deliverer", "listener", "backend", "postmaster")

TABLES = (
    "CREATE TABLE chaos_entities (id text PRIMARY KEY, n bigint NOT NULL DEFAULT 0)",
    "CREATE TABLE chaos_facts (id text, n bigint, PRIMARY KEY (id, n))",
    f"INSERT INTO chaos_entities SELECT 'e' || n FROM generate_series(0, {ENTITIES - 1}) n",
)


class Receiver:
    """Takes webhooks and remembers when each came."""

    def __init__(self) -> None:
        self.came: list[tuple[str, datetime]] = []

    def __call__(self, request: Request) -> Reply:
        verified(request)
        self.came.append((request.headers["webhook-id"], datetime.now(UTC)))
        return Reply()


class Team:
    """The processes at work, each of which is replaced when it is killed."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url, self.folder = url, folder
        self.environment = dict(os.environ)
        self.seeds = iter(range(SEED * 100_000, SEED * 100_000 + 100_000))
        self.members = [(job, self._start(job)) for job in TEAM]

    def _start(self, job: str) -> Any:
        return events_child.start(job, self.url, next(self.seeds), self.folder, self.environment)

    def replace(self, job: str, dice: random.Random) -> None:
        """Kill one of those that do this job, and start another."""
        place = dice.choice([n for n, (does, _) in enumerate(self.members) if does == job])
        self.kill(place)
        self.members[place] = (job, self._start(job))

    def kill(self, place: int) -> None:
        process = self.members[place][1]
        assert process.exitcode is None, f"{self.members[place][0]} ended by itself"
        process.kill()
        process.join()

    def retire(self, job: str) -> None:
        """Kill those that do this job, and start no other."""
        for place, (does, _) in reversed(list(enumerate(self.members))):
            if does == job:
                self.kill(place)
                del self.members[place]


@pytest.fixture
def receiver() -> Iterator[tuple[LoopbackServer, Receiver]]:
    with loopback_server() as server:
        server.respond = receiver = Receiver()
        server.latency = 0.2  # so that kills meet requests in flight
        yield server, receiver


@pytest.fixture
async def team(
    mortal_database: Database, receiver: tuple[LoopbackServer, Receiver], tmp_path: Path
) -> AsyncIterator[Team]:
    for statement in TABLES:
        await execute(mortal_database, statement)
    bus = EventBus(mortal_database, Settings(_env_file=None, env="test"))
    await bus.endpoints.add(
        "hook",
        f"{receiver[0].url}/hook",
        secret=SECRET,
        patterns=["chaos.*"],
        max_in_flight=IN_FLIGHT,
    )
    url = make_url(str(mortal_database._url)).render_as_string(hide_password=False)
    made = Team(url, tmp_path)
    yield made
    for _, process in made.members:
        process.kill()
        process.join()


async def kill_postgresql(how: str, cluster: Cluster, database: Database) -> None:
    """A backend by SIGKILL, after which the server restarts itself; or all of the server."""
    if how == "backend":
        query = (
            "SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid() "
            "AND datname = current_database() ORDER BY random() LIMIT 1"
        )
        pid = await scalar(database, query)
        await database.close()
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
        return
    await database.close()
    cluster.kill()
    await asyncio.sleep(0.1)
    cluster.start()


async def count_open(database: Database) -> int:
    return int(
        await scalar(
            database,
            "SELECT count(*) FROM system_events AS event LEFT JOIN event_deliveries AS delivery "
            "ON delivery.event_id = event.id WHERE event_type = 'chaos.changed' "
            "AND delivery.delivered_at IS NULL",
        )
    )


async def patiently(work: Any) -> Any:
    """What ``work()`` returns, as soon as PostgreSQL is back."""
    while True:
        try:
            return await work()
        except Exception:
            await asyncio.sleep(0.1)


def listened(folder: Path) -> list[tuple[int, str, str, int]]:
    lines = [
        line.split() for path in folder.glob("listened-*") for line in path.read_text().splitlines()
    ]
    return [(int(seq), event_id, entity, int(n)) for seq, event_id, entity, n in lines]


@pytest.mark.timeout(600 + 3 * KILLS)
async def test_kills_lose_no_event_and_repeat_no_more_than_was_in_flight(
    cluster: Cluster,
    mortal_database: Database,
    team: Team,
    receiver: tuple[LoopbackServer, Receiver],
    tmp_path: Path,
) -> None:
    database, (_, taken) = mortal_database, receiver
    dice, kills = random.Random(SEED), Counter[str]()
    while sum(kills.values()) < KILLS:
        await asyncio.sleep(dice.uniform(0.05, 0.5))
        victim = VICTIMS[sum(kills.values()) % len(VICTIMS)]
        kills[victim] += 1
        if victim in TEAM:
            team.replace(victim, dice)
        else:
            await patiently(lambda how=victim: kill_postgresql(how, cluster, database))
    team.retire("emitter")
    last = time.monotonic()
    async with asyncio.timeout(RECOVERY):
        while await patiently(lambda: count_open(database)):  # noqa: ASYNC110 - a row is no event
            await asyncio.sleep(0.2)
        recovered = time.monotonic() - last
        events = await fetch(
            database,
            "SELECT id::text, entity_id, created_at, payload FROM system_events "
            "WHERE event_type = 'chaos.changed'",
        )
        wanted = {event["id"] for event in events}
        while not wanted <= {one for _, one, _, _ in listened(tmp_path)}:  # noqa: ASYNC110 - a file
            await asyncio.sleep(0.2)
    facts = await fetch(database, "SELECT id, n FROM chaos_facts")

    heard = listened(tmp_path)
    sent = Counter(event_id for event_id, _ in taken.came)
    repeats = sum(sent.values()) - len(sent)
    again = len(heard) - len({event_id for _, event_id, _, _ in heard})
    lags = first_lags(events, taken)
    print(
        f"{sum(kills.values())} kills ({dict(kills)}): {len(wanted)} events, "
        f"0 missed, {repeats} deliveries and "
        f"{again} listened twice; all delivered {recovered:.1f} s after the last kill; "
        f"longest wait of an event {max(lags):.1f} s, median {sorted(lags)[len(lags) // 2]:.2f} s"
    )
    # a change and its event: both or none
    assert {(one["id"], one["n"]) for one in facts} == {
        (event["entity_id"], event["payload"]["n"]) for event in events
    }
    assert len(facts) == len(events) > 0
    # what was committed came, and nothing else
    assert set(sent) == wanted
    assert {event_id for _, event_id, _, _ in heard} == wanted
    # in order of each entity, the first time that each came
    assert repeats <= 2 * IN_FLIGHT * kills["deliverer"]
    disturbed = kills["listener"] + kills["backend"] + kills["postmaster"]
    assert again <= BATCH * disturbed
    assert in_order(heard)


def first_lags(events: list[dict[str, Any]], taken: Receiver) -> list[float]:
    """Seconds from each event's commit, or a moment before, until it first came."""
    first: dict[str, datetime] = {}
    for event_id, moment in taken.came:
        first.setdefault(event_id, moment)
    return [
        (first[event["id"]] - event["created_at"]).total_seconds() - event["payload"]["hold"]
        for event in events
    ]


def in_order(heard: list[tuple[int, str, str, int]]) -> bool:
    """Whether the log has each entity's events in the order of its changes."""
    newest: dict[str, int] = {}
    for _, _, entity, number in sorted(set(heard)):
        if number <= newest.get(entity, 0):
            return False
        newest[entity] = number
    return True
