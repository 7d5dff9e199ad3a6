"""Samples count from the moment at which ``append_metrics`` has returned, in the order of the calls."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from atlas.archive import Archiver
from atlas.db import Database
from atlas.errors import VaultUnavailable
from atlas.reader import StatsReader
from atlas.vault import LocalVault, Vault
from atlas.vault.spool.delivery import Pace
from atlas.vault.stores.local import LocalStore
from tests.support.impatience import no_pauses
from tests.support.samples import visible

AT = datetime(2026, 1, 15, 10, tzinfo=UTC)


def row(views: int, video_id: str = "V", minute: int = 0) -> dict[str, object]:
    return {"video_id": video_id, "timestamp": AT + timedelta(minutes=minute), "views": views}


@pytest.fixture
def paced(tmp_path: Path) -> Iterator[Vault]:
    """A vault whose rows wait for company for longer than any test takes."""
    with no_pauses():
        vault = Vault(LocalStore(tmp_path / "vault"), tmp_path / "home", pace=Pace(3600.0))
        yield vault
        for outbox in vault._outboxes.values():
            outbox.stop()


async def views(database: Database, vault: Vault, video_id: str = "V") -> list[int]:
    history = await StatsReader(database, vault).history(video_id)
    shown: list[int] = history["views"].to_pylist()
    return shown


async def test_what_waits_on_this_machine_is_read_like_the_rest(
    database: Database, paced: Vault, tmp_path: Path
) -> None:
    paced.append_metrics([row(1)])
    paced.flush()  # else its own delivery may take the others along
    paced.append_metrics([row(2), row(3, minute=1)])
    assert paced.pending().count == 1
    assert await views(database, paced) == [2, 3]
    assert await StatsReader(database, paced).count() == 2
    # another process of this machine shares the folder and nothing else
    beside = Vault(LocalStore(tmp_path / "vault"), tmp_path / "home")
    assert await views(database, beside) == [2, 3]
    paced.flush()
    assert await views(database, beside) == [2, 3]
    assert paced.pending().count == 0
    assert await views(database, paced) == [2, 3]


async def test_what_is_delivered_while_it_is_read_is_read_once(
    database: Database, paced: Vault
) -> None:
    paced.append_metrics([row(1)])
    paced.append_metrics([row(2, minute=1)])
    seen = paced.as_seen_here()
    keys = [info.key for info in seen.list("metrics")]
    assert len(keys) == 2
    opened = [source for key in keys if (source := seen.open(key)) is not None]
    paced.flush()
    assert [info.key for info in seen.list("metrics")] == keys
    for key, source in zip(keys, opened, strict=True):
        with source, seen.open(key) or source as again:
            assert source.read() == again.read() != b""


async def test_what_an_outage_keeps_here_is_read_too(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vault = LocalVault(tmp_path / "vault", home=tmp_path / "home")

    def down(*_: object) -> None:
        raise VaultUnavailable("down")

    with monkeypatch.context() as patch:
        patch.setattr(vault.store, "put_files", down)
        vault.append_metrics([row(1)])
    assert vault.pending().count == 1
    assert await views(database, vault) == [1]


async def test_of_one_two_one_the_last_counts_and_a_retry_adds_nothing(
    database: Database, tmp_path: Path
) -> None:
    vault = LocalVault(tmp_path / "vault", home=tmp_path / "home")
    for value, added in ((1, 1), (1, 0), (2, 1), (2, 0), (1, 1), (1, 0), (2, 1), (2, 0)):
        assert vault.append_metrics([row(value)]) == added
        assert await views(database, vault) == [value]
    # others' samples in between make no repeat of it
    assert vault.append_metrics([row(9, "other")]) == 1
    assert vault.append_metrics([row(2)]) == 0
    # nor does the end of what is compacted
    assert (await Archiver(database, vault).compact()).failed == ()
    assert vault.append_metrics([row(2)]) == 0
    assert vault.append_metrics([row(1)]) == 1
    assert await views(database, vault) == [1]


CALLS = st.lists(
    st.lists(
        st.tuples(st.sampled_from("AB"), st.integers(0, 2), st.integers(0, 1)),
        min_size=1,
        max_size=3,
        unique_by=lambda one: one[:2],
    ),
    min_size=1,
    max_size=7,
)


@settings(
    max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(calls=CALLS)
async def test_any_order_of_calls_shows_the_last_value_of_each_sample(
    database: Database,
    tmp_path_factory: pytest.TempPathFactory,
    calls: list[list[tuple[str, int, int]]],
) -> None:
    root = tmp_path_factory.mktemp("order")
    vault = LocalVault(root / "vault", home=root / "home")
    last: dict[tuple[str, datetime], int] = {}
    for call in calls:
        rows = [row(value, video_id, minute) for video_id, minute, value in call]
        vault.append_metrics(rows)
        assert vault.append_metrics(rows) == 0
        last |= {(str(one["video_id"]), one["timestamp"]): one["views"] for one in rows}  # type: ignore[misc]
    shown = {key: counters[0] for key, counters in (await visible(database, vault)).items()}
    assert shown == last
