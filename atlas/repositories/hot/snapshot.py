"""One consistent look at the hot samples and the ledger, straight into Arrow.

The first statement locks the parent and the ledger in ACCESS SHARE mode, before any snapshot: sealing needs
the parent exclusively and dropping a sealed table needs the ledger exclusively, so that everything the
snapshot sees stays readable until the transaction ends. (A REPEATABLE READ snapshot alone does not
protect from DROP.) Writers of samples are not held up by either lock.
"""

from __future__ import annotations

import bisect
import uuid
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

import pyarrow as pa
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from atlas.db.arrow import ArrowConnection
from atlas.db.sql import identifier, literal
from atlas.parsing import parse_boundary
from atlas.repositories.erasure import FORGOTTEN, NOT_FORGOTTEN
from atlas.repositories.hot.partitions import BOUNDS
from atlas.repositories.ledger.digests import Erased
from atlas.tables.sample import SAMPLE, SAMPLE_SQL
from atlas.types import Boundary, check_id

#: Orders the tiers where one sample is in several: hot above sealed above cold, then the higher seq.
HOT_PRIORITY = 1 << 62
SEALED_PRIORITY = 1 << 61

HOT_SCHEMA = pa.schema(
    [*((column.name, column.arrow) for column in SAMPLE), ("priority", pa.int64())]
)


_HOT_FROM = f"""
    SELECT (SELECT min(lower) FROM ({BOUNDS}) AS partition), metrics_seen, owner::text
    FROM archive_control WHERE id = 1
"""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which samples: of these videos (None: all) but the ``excluded``, since ``since``, before ``until``.

    ``erased`` are excluded as well: ids that are known by their hashes. Without ``hot`` no row of
    PostgreSQL is selected.
    """

    video_ids: tuple[str, ...] | None = None
    since: datetime | None = None
    until: datetime | None = None
    excluded: tuple[str, ...] = ()
    erased: Erased | None = None
    hot: bool = True

    def __post_init__(self) -> None:
        if self.video_ids is not None:
            object.__setattr__(self, "video_ids", tuple(sorted(set(self.video_ids))))

    @classmethod
    def of(
        cls, video_ids: Collection[str] | None, since: Boundary | None, until: Boundary | None
    ) -> Selection:
        """A checked selection. Raises `InvalidInput` for a wrong id or a naive time."""
        if isinstance(video_ids, str):
            video_ids = (video_ids,)
        ids = None if video_ids is None else tuple(check_id(one) for one in video_ids)
        return cls(
            ids,
            parse_boundary(since, field="since"),
            parse_boundary(until, field="until"),
        )

    def sql(self) -> str:
        """The condition on a table of samples."""
        parts = ["true" if self.hot else "false"]
        if self.video_ids is not None:
            # one literal: as many as there are ids would be parsed one by one
            ids = literal("{" + ",".join(f'"{one}"' for one in self.video_ids) + "}")
            parts.append(f"video_id = ANY ({ids}::text[])" if self.video_ids else "false")
        if self.since is not None:
            parts.append(f"timestamp >= {literal(self.since.isoformat())}::timestamptz")
        if self.until is not None:
            parts.append(f"timestamp < {literal(self.until.isoformat())}::timestamptz")
        return " AND ".join(parts)

    def may_touch(
        self,
        first: datetime,
        last: datetime,
        first_id: str | None = None,
        last_id: str | None = None,
    ) -> bool:
        """Whether rows within these inclusive bounds can be selected."""
        if self.since is not None and last < self.since:
            return False
        if self.until is not None and first >= self.until:
            return False
        if self.video_ids is None or first_id is None or last_id is None:
            return self.video_ids != ()
        following = bisect.bisect_left(self.video_ids, first_id)
        return following < len(self.video_ids) and self.video_ids[following] <= last_id

    def covers(self, first: datetime, last: datetime) -> bool:
        """Whether every row within these inclusive bounds is selected."""
        return (
            self.video_ids is None
            and (self.since is None or self.since <= first)
            and (self.until is None or last < self.until)
        )


@dataclass(frozen=True, slots=True)
class ColdFile:
    """A live file of the ledger, or an appended one found in the vault (``row_count`` not known).

    ``in_ledger``: no other object will ever have this name. ``byte_size`` None: not known.
    Of an appended one: when it ``arrived``, by the store's clock where known, and when it was ``seen``.
    """

    object_key: str
    vault: str
    first: datetime
    last: datetime
    row_count: int | None
    byte_size: int | None = None
    in_ledger: bool = False
    arrived: datetime | None = None
    seen: datetime | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Hot and sealed rows (`HOT_SCHEMA`, in no order) and the cold files of the same moment.

    ``files`` are those that can hold selected rows, ``skipped`` counts the others. ``hot_from`` is where
    the oldest attached partition begins (None: there is none). ``metrics_seen``: the vault was
    at some time found to hold appended metrics. ``adopted`` are appended files whose rows have moved into
    files of the ledger; ``forgotten`` are ids whose rows do not count wherever they still lie, ``erased``
    those that are known by their hashes alone. ``is_new``: this database never had a vault.
    """

    hot: pa.Table
    files: list[ColdFile]
    skipped: int = 0
    sealed: bool = False
    hot_from: datetime | None = None
    metrics_seen: bool = True
    adopted: frozenset[str] = frozenset()
    forgotten: tuple[str, ...] = ()
    erased: Erased | None = None
    is_new: bool = False


def read_snapshot(libpq_url: str, selection: Selection) -> Snapshot:
    """Take the snapshot. Blocking: call it in a thread. The transaction is over when it returns."""
    with ArrowConnection(libpq_url) as connection:
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        connection.execute("LOCK TABLE video_stats_log, archive_files IN ACCESS SHARE MODE")
        ledger = connection.rows(
            "SELECT state, object_key, vault, seq, relation, min_timestamp, max_timestamp, "
            "min_video_id, max_video_id, row_count, byte_size FROM archive_files "
            "WHERE dataset = 'video_stats' AND (state = 'live' AND row_count > 0 OR relation IS NOT NULL)"
        )
        adopted = connection.rows("SELECT object_key FROM archive_files WHERE dataset = 'metrics'")
        forgotten = connection.rows(f"SELECT video_id, erased_at {FORGOTTEN}")
        ((hot_from, metrics_seen, owner),) = connection.rows(_HOT_FROM)
        digests = frozenset(one for (one,) in connection.rows("SELECT digest FROM erased_digests"))
        # while an erasure is under way, no count of the ledger can be trusted
        erasing = any(erased_at is None for _, erased_at in forgotten)
        # a restored row is a copy, and competes with cold ones by its seq
        sources = [("video_stats_log", f"coalesce(seq, {HOT_PRIORITY})")]
        files = []
        for state, key, vault, seq, relation, first, last, first_id, last_id, rows, size in ledger:
            if state != "live":
                sources.append((relation, str(SEALED_PRIORITY + seq)))
            elif selection.may_touch(first, last, first_id, last_id):
                known = None if erasing else rows
                files.append(ColdFile(key, vault, first, last, known, size, in_ledger=True))
        query = " UNION ALL ".join(
            f"SELECT {SAMPLE_SQL}, "
            f"{priority}::bigint AS priority FROM {identifier(name)} "
            f"WHERE {selection.sql()} AND {NOT_FORGOTTEN}"
            for name, priority in sources
        )
        batches = list(connection.batches(query))
    hot = pa.Table.from_batches(batches) if batches else HOT_SCHEMA.empty_table()
    return Snapshot(
        hot.cast(HOT_SCHEMA),
        files,
        skipped=len(ledger) + 1 - len(sources) - len(files),
        sealed=len(sources) > 1,
        hot_from=hot_from,
        metrics_seen=metrics_seen,
        adopted=frozenset(key for (key,) in adopted),
        forgotten=tuple(sorted(video_id for video_id, _ in forgotten)),
        erased=Erased(uuid.UUID(owner), digests) if owner and digests else None,
        is_new=owner is None,
    )


async def remember_metrics(session: AsyncSession) -> None:
    """Note that the vault holds appended metrics; waits for the row's lock for at most 100 ms."""
    await session.execute(text("SET LOCAL lock_timeout = '100ms'"))
    await session.execute(
        text("UPDATE archive_control SET metrics_seen = true WHERE id = 1 AND NOT metrics_seen")
    )
