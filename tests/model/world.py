"""What the model knows of databases, the vault and the machines around them.

All of it is immutable and hashable. There is one sample to a video; a *version* is what was written, numbered
in the order of writing. Keys, ``seq``s and nonces are drawn from one clock. What a `Row` is in PostgreSQL
has ``seq`` 0, unless it was restored from a file.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

STATS, METRICS, VIDEOS = "video_stats", "metrics", "videos"
SEALED, WRITTEN, VERIFIED = OPEN = ("sealed", "written", "verified")
LIVE, RETIRED, GONE, ASIDE = "live", "retired", "gone", "aside"


class Row(NamedTuple):
    """A sample, or in the folder ``videos`` a video."""

    video: str
    version: int
    seq: int = 0


Rows = tuple[Row, ...]


class Object(NamedTuple):
    """A Parquet file of the vault; one that is not ``whole`` cannot be decoded."""

    key: int
    folder: str
    owner: int
    seq: int
    rows: Rows
    batch: int = 0
    whole: bool = True


class Batch(NamedTuple):
    """A batch record: which files take the place of which, and the numbers of the slices among these."""

    owner: int
    number: int
    replaced: tuple[int, ...]
    outputs: tuple[int, ...]
    slices: tuple[int, ...]


class File(NamedTuple):
    """A ledger row. ``table`` are the rows of the sealed table, ``facts`` those that the object must hold;
    of a merged file ``batch`` is the number of its replacement."""

    key: int
    folder: str
    state: str
    seq: int
    table: Rows | None = None
    facts: Rows | None = None
    batch: int = 0


class Bar(NamedTuple):
    """A forgotten id; ``erased`` once nothing of it is left."""

    video: str
    erased: bool


class Database(NamedTuple):
    """``collected`` are ids of removed videos, ``adopting_from`` the highest number when an adoption began;
    ``adopted`` is False from a restore to the adoption."""

    hot: Rows = ()
    ledger: tuple[File, ...] = ()
    bars: tuple[Bar, ...] = ()
    pinned: bool = False
    owner: int = 0
    epoch: int = 0
    nonce: int = 0
    pending: int = 0
    fence: int = 0
    last_seq: int = 0
    videos: Rows = ()
    collected: tuple[str, ...] = ()
    adopting_from: int | None = None
    adopted: bool = True

    @property
    def barred(self) -> frozenset[str]:
        """Every forgotten id."""
        return frozenset(bar.video for bar in self.bars)

    def file(self, key: int) -> File | None:
        """The ledger row of an object."""
        return next((file for file in self.ledger if file.key == key), None)

    def keys(self, *states: str, folder: str | None = None) -> tuple[int, ...]:
        """Names of the files in these states."""
        return tuple(
            file.key
            for file in self.ledger
            if file.state in states and (folder is None or file.folder == folder)
        )

    def with_files(self, *files: File) -> Database:
        """The same with these ledger rows, in place of those with their keys."""
        keys = {file.key for file in files}
        kept = [file for file in self.ledger if file.key not in keys]
        return self._replace(ledger=ordered([*kept, *files]))


class Mark(NamedTuple):
    """The epoch object of an owner."""

    owner: int
    epoch: int
    nonce: int


class Process(NamedTuple):
    """A job under way: what it was told so far decides what it does next."""

    name: str
    job: str
    database: int
    argument: Any
    told: tuple[Any, ...]


class Floor(NamedTuple):
    """Since when a database must show a video's sample in this version or a newer one."""

    database: int
    video: str
    version: int


class World(NamedTuple):
    """``late`` are writes of the store that were told as failed and may still happen; ``last`` is the
    process that took the last step, ``returns`` how often another one may come back to life."""

    databases: tuple[Database, ...]
    objects: tuple[Object, ...] = ()
    marks: tuple[Mark, ...] = ()
    prefix_owner: int = 0
    batches: tuple[Batch, ...] = ()
    erasures: tuple[tuple[int, str], ...] = ()
    condemned: tuple[tuple[int, ...], ...] = ()
    documents: tuple[str, ...] = ()
    spool: tuple[Object, ...] = ()
    waiting: tuple[str, ...] = ()
    appended: tuple[tuple[str, str, str], ...] = ()
    late: tuple[Any, ...] = ()
    processes: tuple[Process, ...] = ()
    budget: tuple[tuple[Any, int], ...] = ()
    backup: Database | None = None
    floors: tuple[Floor, ...] = ()
    removed: Rows = ()
    forgotten: tuple[str, ...] = ()
    clock: int = 1
    version: int = 0
    returns: int = 0
    last: str = ""
    lost: bool = False
    wrong: str = ""

    def object(self, key: int) -> Object | None:
        """The object of this name."""
        return next((one for one in self.objects if one.key == key), None)

    def whole(self, key: int) -> Object | None:
        """The object of this name, if it can be decoded."""
        one = self.object(key)
        return one if one is not None and one.whole else None

    def mark(self, owner: int) -> Mark | None:
        """The epoch that the vault carries for an owner."""
        return next((mark for mark in self.marks if mark.owner == owner), None)

    def floor(self, database: int, video: str) -> int:
        """The version that must be shown at least; 0: none."""
        return next(
            (one.version for one in self.floors if one[:2] == (database, video)),
            0,
        )

    def with_floor(self, database: int, video: str, version: int) -> World:
        """The same, where from now on this version must be shown (0: nothing need be)."""
        kept = [one for one in self.floors if one[:2] != (database, video)]
        new = [Floor(database, video, version)] if version else []
        return self._replace(floors=ordered([*kept, *new]))

    def with_database(self, number: int, database: Database) -> World:
        """The same with another state of one database."""
        databases = list(self.databases)
        databases[number] = database
        return self._replace(databases=tuple(databases))

    def with_object(self, one: Object) -> World:
        """The same with an object, if its name is free."""
        if self.object(one.key) is not None:
            return self
        return self._replace(objects=ordered([*self.objects, one]))

    def without_objects(self, keys: Iterable[int]) -> World:
        """The same without these objects."""
        gone = set(keys)
        return self._replace(objects=tuple(one for one in self.objects if one.key not in gone))

    def tick(self) -> tuple[World, int]:
        """The next number of the clock."""
        return self._replace(clock=self.clock + 1), self.clock


def ordered(things: Iterable[Any]) -> tuple[Any, ...]:
    """As a tuple whose order does not depend on how it came to be."""
    return tuple(sorted(set(things)))
