"""One consistent look at the hot samples and the ledger, straight into Arrow.

The first statement locks the parent and the ledger in ACCESS SHARE mode, before any snapshot: sealing needs
the parent exclusively and dropping a sealed table needs the ledger exclusively, so that everything the
snapshot sees stays readable until the transaction ends. (A REPEATABLE READ snapshot alone does not
protect from DROP.) Writers of samples are not held up by either lock.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

import pyarrow as pa

from atlas.db.arrow import ArrowConnection, literal
from atlas.repositories.erasure import FORGOTTEN, NOT_FORGOTTEN
from atlas.types import check_id, utc

#: Orders the tiers where one sample is in several: hot above sealed above cold, then the higher seq.
HOT_PRIORITY = 1 << 62
SEALED_PRIORITY = 1 << 61

HOT_SCHEMA = pa.schema(
    [
        ("video_id", pa.string()),
        ("timestamp", pa.timestamp("us", "UTC")),
        ("views", pa.int64()),
        ("likes", pa.int64()),
        ("comment_count", pa.int64()),
        ("priority", pa.int64()),
    ]
)


@dataclass(frozen=True, slots=True)
class Selection:
    """Which samples: of these videos (None: all) but the ``excluded``, since ``since``, before ``until``."""

    video_ids: tuple[str, ...] | None = None
    since: datetime | None = None
    until: datetime | None = None
    excluded: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, video_ids: Collection[str] | None, since: datetime | None, until: datetime | None
    ) -> Selection:
        """A checked selection. Raises `InvalidInput` for a wrong id or a naive time."""
        if isinstance(video_ids, str):
            video_ids = (video_ids,)
        ids = None if video_ids is None else tuple(sorted({check_id(one) for one in video_ids}))
        return cls(
            ids,
            None if since is None else utc(since, field="since"),
            None if until is None else utc(until, field="until"),
        )

    def sql(self) -> str:
        """The condition on a table of samples."""
        parts = ["true"]
        if self.video_ids is not None:
            ids = ", ".join(literal(one) for one in self.video_ids)
            parts.append(f"video_id IN ({ids})" if ids else "false")
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
        return any(first_id <= one <= last_id for one in self.video_ids)

    def covers(self, first: datetime, last: datetime) -> bool:
        """Whether every row within these inclusive bounds is selected."""
        return (
            self.video_ids is None
            and (self.since is None or self.since <= first)
            and (self.until is None or last < self.until)
        )


@dataclass(frozen=True, slots=True)
class ColdFile:
    """A live file of the ledger, or an appended one found in the vault (``row_count`` not known)."""

    object_key: str
    vault: str
    first: datetime
    last: datetime
    row_count: int | None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Hot and sealed rows (`HOT_SCHEMA`, in no order) and the cold files of the same moment.

    ``adopted`` are appended files whose rows have moved into files of the ledger; ``forgotten`` are ids
    whose rows do not count wherever they still lie.
    """

    hot: pa.Table
    files: list[ColdFile]
    adopted: frozenset[str] = frozenset()
    forgotten: tuple[str, ...] = ()


def read_snapshot(libpq_url: str, selection: Selection) -> Snapshot:
    """Take the snapshot. Blocking: call it in a thread. The transaction is over when it returns."""
    with ArrowConnection(libpq_url) as connection:
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        connection.execute("LOCK TABLE video_stats_log, archive_files IN ACCESS SHARE MODE")
        ledger = connection.rows(
            "SELECT state, object_key, vault, seq, relation, min_timestamp, max_timestamp, "
            "min_video_id, max_video_id, row_count FROM archive_files "
            "WHERE dataset = 'video_stats' AND (state = 'live' AND row_count > 0 OR relation IS NOT NULL)"
        )
        adopted = connection.rows("SELECT object_key FROM archive_files WHERE dataset = 'metrics'")
        forgotten = connection.rows(f"SELECT video_id, erased_at {FORGOTTEN}")
        # while an erasure is under way, no count of the ledger can be trusted
        erasing = any(erased_at is None for _, erased_at in forgotten)
        sources = [("video_stats_log", HOT_PRIORITY)]
        files = []
        for state, key, vault, seq, relation, first, last, first_id, last_id, rows in ledger:
            if state != "live":
                sources.append((relation, SEALED_PRIORITY + seq))
            elif selection.may_touch(first, last, first_id, last_id):
                files.append(ColdFile(key, vault, first, last, None if erasing else rows))
        query = " UNION ALL ".join(
            "SELECT video_id, timestamp, views, likes, comment_count, "
            f'{priority}::bigint AS priority FROM "{name}" '
            f"WHERE {selection.sql()} AND {NOT_FORGOTTEN}"
            for name, priority in sources
        )
        batches = list(connection.batches(query))
        connection.execute("COMMIT")
    hot = pa.Table.from_batches(batches) if batches else HOT_SCHEMA.empty_table()
    return Snapshot(
        hot.cast(HOT_SCHEMA),
        files,
        frozenset(key for (key,) in adopted),
        tuple(sorted(video_id for video_id, _ in forgotten)),
    )
