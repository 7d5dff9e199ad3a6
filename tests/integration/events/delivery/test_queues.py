"""Long queues, slow receivers and dead workers: each event comes, and holds up no other."""

from __future__ import annotations

import asyncio
import json
import threading
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from atlas.db import Database
from atlas.errors import DatabaseUnavailable
from atlas.events import Event, EventBus
from atlas.events.delivery import deliverer
from atlas.events.delivery.deliverer import SCHEDULE
from atlas.events.delivery.router import route_page
from atlas.events.delivery.senders import HandlerSender, NotifySender, Verdict
from atlas.events.delivery.windows import Window
from atlas.events.handlers import HUNG_THREADS
from atlas.repositories.events.deliveries import Delivery, EventDeliveries, Outcome
from atlas.repositories.events.endpoints import EventEndpoints
from atlas.types import AlertChannel
from tests.support.events import (
    SECRET,
    delivery,
    make_due,
    of_type,
    sent_to,
    settings,
    until_delivered,
    until_sent,
)
from tests.support.halt import until
from tests.support.servers.http import LoopbackServer, Reply, Request
from tests.support.sql import execute, scalar


async def test_a_receiver_that_never_answers_holds_nobody_up(
    quiet: EventBus, database: Database, server: LoopbackServer
) -> None:
    server.respond = lambda request: Reply(hang=request.path == "/hangs")
    await quiet.endpoints.add("hangs", f"{server.url}/hangs", secret=SECRET)
    await quiet.endpoints.add("good", f"{server.url}/good", secret=SECRET)
    await quiet.emit_many([("a",)] * 200)
    worker = quiet.deliverer()
    running = asyncio.create_task(worker.run())
    await until_sent(server, "/good", 200)
    assert len(sent_to(server, "/hangs")) <= 10
    server.closing.set()
    worker.stop()
    await running


async def test_a_long_queue_is_sent_whole_and_each_event_once(
    quiet: EventBus, database: Database, server: LoopbackServer
) -> None:
    await quiet.endpoints.add("hook", f"{server.url}/hook", secret=SECRET, patterns=["a*"])
    await quiet.emit_many([("a",)] * 250)
    assert await quiet.deliver_pending(limit=3) == 3
    rivals = await asyncio.gather(quiet.deliver_pending(), quiet.deliver_pending())
    assert sum(rivals) == 247
    assert len({request.headers["webhook-id"] for request in server.requests}) == 250
    assert len(server.requests) == 250


async def test_after_the_last_attempt_the_event_is_a_dead_letter_with_its_error_until_replayed(
    bus: EventBus, database: Database, server: LoopbackServer
) -> None:
    server.script(Reply(400))
    await bus.emit("a")
    await bus.drain()
    for _ in SCHEDULE[1:4]:
        await make_due(database)
        await bus.deliver_pending()
    await execute(database, "UPDATE event_deliveries SET attempts = :n", n=len(SCHEDULE) - 1)
    await make_due(database)
    await bus.deliver_pending()
    stored = await delivery(database)
    assert (stored["due_at"], stored["delivered_at"]) == (None, None)
    assert (stored["attempts"], stored["last_error"]) == (len(SCHEDULE), "answered 400")
    server.script(Reply())
    await execute(database, "UPDATE event_endpoints SET state = 'active'")
    assert await bus.deliver_pending() == 0
    async with database.transaction() as session:
        replayed = await EventDeliveries(session).replay([stored["endpoint_id"]], dead_only=True)
    assert replayed == 1
    assert await bus.deliver_pending() == 1
    assert len({one.headers["webhook-id"] for one in of_type(server)}) == 1


async def test_what_a_dead_worker_held_comes_back_and_its_late_report_changes_nothing(
    bus: EventBus, quiet: EventBus, database: Database, server: LoopbackServer
) -> None:
    made = await quiet.endpoints.add("hook", f"{server.url}/hook", secret=SECRET, patterns=["a*"])
    await quiet.emit("a")
    await route_page(database)
    async with database.transaction() as session:
        (stale,) = await EventDeliveries(session).claim({made.id: 5}, {}, uuid.uuid4(), 0)
    async with database.transaction() as session:
        (held,) = await EventDeliveries(session).claim({made.id: 5}, {}, uuid.uuid4(), 60)
        assert await EventDeliveries(session).claim({made.id: 5}, {}, uuid.uuid4(), 60) == []
        assert await EventDeliveries(session).report([Outcome(stale, delivered=True)]) == 0
        assert await EventDeliveries(session).report([Outcome(held, delivered=True)]) == 1
    assert (await delivery(database))["attempts"] == 2


def test_a_loop_that_ends_during_a_delivery_ends_quietly_and_the_event_stays_due(
    database: Database, server: LoopbackServer
) -> None:
    arrived = threading.Event()

    def hang(request: Request) -> Reply:
        arrived.set()
        return Reply(hang=True)

    server.respond = hang
    bus = EventBus(database, settings(server))

    async def work() -> None:
        await bus.emit("a")
        await asyncio.to_thread(arrived.wait)

    asyncio.run(work())
    stored = asyncio.run(delivery(database))
    assert stored["due_at"] is not None
    assert stored["delivered_at"] is None
    server.script(Reply())
    asyncio.run(make_due(database))
    assert asyncio.run(bus.deliver_pending()) == 1


async def test_a_request_slow_among_quick_ones_holds_only_itself(
    quiet: EventBus, database: Database, server: LoopbackServer
) -> None:
    release = threading.Event()

    def respond(request: Request) -> Reply:
        slow = json.loads(request.body)["data"].get("slow")
        return Reply(until=release) if slow else Reply()

    server.respond = respond
    await quiet.endpoints.add("hook", f"{server.url}/hook", secret=SECRET, patterns=["a*"])
    # more slow ones than the window is wide, between quick ones
    await quiet.emit_many([("a", None, {"slow": n % 20 == 19}) for n in range(400)])
    worker = quiet.deliverer()
    running = asyncio.create_task(worker.run())
    await until_delivered(worker, 380)
    release.set()
    worker.stop()
    await running


async def test_with_one_request_at_a_time_none_overtakes(
    quiet: EventBus, server: LoopbackServer
) -> None:
    made = await quiet.endpoints.add("hook", f"{server.url}/hook", max_in_flight=1)
    window = Window(made, None, made.max_in_flight)
    attempt = window.begin(None)  # type: ignore[arg-type]
    attempt.started -= 100
    window.successes = 1_000
    assert not window.has_room()


def test_what_a_dead_worker_held_is_back_within_half_a_minute() -> None:
    assert deliverer.TIMEOUT + deliverer.FRESH + 2 < 30


async def test_what_is_sent_and_not_recorded_is_bounded_since_a_kill_repeats_it(
    quiet: EventBus, server: LoopbackServer
) -> None:
    made = await quiet.endpoints.add("hook", f"{server.url}/hook", max_in_flight=3)
    window = Window(made, None, made.max_in_flight)
    ids = [uuid.uuid4() for _ in range(5)]
    sent = [window.begin(SimpleNamespace(event_id=one)) for one in ids[:3]]  # type: ignore[arg-type]
    assert not window.has_room()  # three at once
    for attempt in sent:
        window.end(attempt, True)
    for one in ids[3:]:
        assert window.has_room()
        window.end(window.begin(SimpleNamespace(event_id=one)), True)  # type: ignore[arg-type]
    assert not window.has_room()  # a kill repeats five at most, twice three
    window.unrecorded.discard(ids[0])
    assert window.has_room()


async def test_an_outcome_is_recorded_while_another_request_is_under_way(
    quiet: EventBus, database: Database, server: LoopbackServer
) -> None:
    release = threading.Event()
    server.respond = lambda request: Reply(until=release if b'"slow"' in request.body else None)
    await quiet.endpoints.add("hook", f"{server.url}/hook", secret=SECRET, patterns=["a*"])
    await quiet.emit_many([("a", None, {"slow": True}), ("a",)])
    worker = quiet.deliverer()
    running = asyncio.create_task(worker.run())

    async def is_recorded() -> bool:
        return bool(await scalar(database, "SELECT count(delivered_at) FROM event_deliveries"))

    await until(is_recorded)
    release.set()
    worker.stop()
    await running


async def test_a_claim_takes_nothing_of_others_nor_what_is_due_to_who_is_unwell(
    quiet: EventBus, database: Database, server: LoopbackServer
) -> None:
    made = await quiet.endpoints.add("hook", f"{server.url}/hook", patterns=["a*"])
    await quiet.emit_many([("a",)] * 2)
    await route_page(database)
    probe, room = uuid.uuid4(), {made.id: 5}
    async with database.session() as one, database.session() as other, asyncio.timeout(60):
        (first,) = await EventDeliveries(one).claim({made.id: 1}, {}, uuid.uuid4(), 60)
        # under way, and not waited for
        (second,) = await EventDeliveries(other).claim(room, {}, uuid.uuid4(), 60)
        assert first.event_id != second.event_id
        await one.commit()
        await other.rollback()
        assert await EventDeliveries(one).make_due(made.id) == 0  # what waits is due, or claimed
        assert await EventEndpoints(one).pause(made.id, 0, "unwell")
        assert await EventDeliveries(one).claim(room, {}, uuid.uuid4(), 60) == []
        assert await EventEndpoints(one).take_probe(made.id, probe, 60)
        assert not await EventEndpoints(one).take_probe(made.id, uuid.uuid4(), 60)
        stranger = {made.id: uuid.uuid4()}
        assert await EventDeliveries(one).claim(room, stranger, uuid.uuid4(), 60) == []
        (probed,) = await EventDeliveries(one).claim(room, {made.id: probe}, uuid.uuid4(), 60)
        assert probed.event_id == second.event_id


async def test_outcomes_that_postgresql_does_not_take_are_kept_until_it_does(
    quiet: EventBus,
    database: Database,
    server: LoopbackServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await quiet.endpoints.add("hook", f"{server.url}/hook", patterns=["a*"])
    await quiet.emit_many([("a",)] * 3)
    report, failures = EventDeliveries.report, iter([DatabaseUnavailable("away")] * 2)

    async def reported(self: EventDeliveries, outcomes: Sequence[Outcome]) -> int:
        if outcomes and (error := next(failures, None)) is not None:
            raise error
        return await report(self, outcomes)

    monkeypatch.setattr(EventDeliveries, "report", reported)
    worker = quiet.deliverer()
    running = asyncio.create_task(worker.run())

    async def are_recorded() -> bool:
        count = await scalar(database, "SELECT count(delivered_at) FROM event_deliveries")
        return bool(count == 3)

    await until(are_recorded)
    worker.stop()
    await running
    assert next(failures, None) is None
    assert len(server.requests) == 3


def claimed() -> Delivery:
    return Delivery(uuid.uuid4(), 1, datetime.now(UTC), 1, None, 1, "a", None, "{}", uuid.uuid4())


async def test_a_target_of_this_process_that_does_not_end_is_ended_in_time() -> None:
    async def hang(*_: object) -> bool:
        return await asyncio.Event().wait()

    for sender in (HandlerSender(hang, 0.01), NotifySender(hang, AlertChannel.OPS, 0.01)):
        assert await sender.send(claimed()) == Verdict(error="no answer in time", pause=True)


async def test_a_plain_target_that_hangs_holds_up_neither_other_threads_nor_the_programs_end() -> (
    None
):
    release, threads = threading.Event(), list[threading.Thread]()

    def hang(event: Event) -> None:
        threads.append(threading.current_thread())
        release.wait()

    sender = HandlerSender(hang, 0.01)
    for _ in range(HUNG_THREADS):
        assert await sender.send(claimed()) == Verdict(error="no answer in time", pause=True)
    refused = await sender.send(claimed())
    assert (refused.pause, refused.error) == (True, "calls before this one have not ended")
    await until(lambda: asyncio.sleep(0, len(threads) == HUNG_THREADS))
    assert all(thread.daemon for thread in threads)  # no loop and no interpreter waits for them
    release.set()
    for thread in threads:
        thread.join()
    assert await HandlerSender(hang, 60).send(claimed()) == Verdict(delivered=True)


@pytest.mark.parametrize("error", [asyncio.CancelledError, SystemExit, StopIteration, ValueError])
async def test_whatever_a_target_raises_is_an_outcome(error: type[BaseException]) -> None:
    def fail(*_: object) -> None:
        raise error

    async def fail_later(*_: object) -> bool:
        raise asyncio.CancelledError

    for sender in (
        HandlerSender(fail, 60),
        HandlerSender(fail_later, 60),
        NotifySender(fail_later, AlertChannel.OPS, 60),
    ):
        verdict = await sender.send(claimed())
        assert not verdict.delivered and verdict.error


async def test_a_claim_belongs_to_the_transaction_of_its_session(
    quiet: EventBus, database: Database, server: LoopbackServer
) -> None:
    made = await quiet.endpoints.add("hook", f"{server.url}/hook", patterns=["a*"])
    await quiet.emit("a")
    await route_page(database)
    async with database.session() as session:
        assert await EventDeliveries(session).claim({made.id: 5}, {}, uuid.uuid4(), 60)
        await session.rollback()
    assert (await delivery(database))["attempts"] == 0
