"""Facts of videos between understanding and writing, and writing them: videos, channels, schedule."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from atlas.db import Database
from atlas.importing.columns import values
from atlas.importing.columns.last_known import last, numbered
from atlas.importing.columns.rows import FACTS
from atlas.importing.files.spool import Spool
from atlas.repositories.base import CHUNK
from atlas.repositories.ring.membership import Answers
from atlas.repositories.ring.pages import RingReader
from atlas.repositories.videos import Videos
from atlas.repositories.watchlist import NewEntry, Watchlist
from atlas.scheduling import AgePolicy
from atlas.scheduling.undecided import Undecided, until_decided
from atlas.tables.sample import MOMENT
from atlas.types import Channel, ReadableStore, Video

#: Facts that are merged before they are written.
_FACTS_BYTES = 16 << 20
_NEVER = np.iinfo(np.int64).max
_OF_VIDEO = (
    *("channel_id", "channel_title", "title", "published_at", "duration", "tags", "category_id"),
    "default_language",
)


class VideoLoader:
    """Writes videos, each with its channel and its place in the schedule; the same facts once.

    ``undecided`` counts videos that were left out, because only files in the vault, which cannot be read, say
    whether they are known.
    """

    #: Facts that are remembered as written: saves repeats, costs some 100 bytes each.
    _REMEMBERED = 200_000

    def __init__(self, database: Database, store: Callable[[], ReadableStore]) -> None:
        self.undecided = 0
        self._database, self._store = database, store
        self._written: set[int] = set()

    async def load(self, facts: pa.Table, tag_separator: str) -> None:
        """Write a batch of facts, one row a video (see `distinct`)."""
        for part in facts.to_batches(max_chunksize=CHUNK):
            known = {name: _values(part.column(name)) for name in part.schema.names}
            facts = zip(*(known[name] for name in known if name != "born"), strict=True)
            news = [at for at, row in enumerate(facts) if self._is_news(row)]
            await self._load(known, news, tag_separator)

    async def _load(
        self, known: Mapping[str, list[Any]], rows: Sequence[int], tag_separator: str
    ) -> None:
        if not rows:
            return
        nothing = [None] * (rows[-1] + 1)
        columns = [known.get(name, nothing) for name in _OF_VIDEO]
        channels: dict[str, Channel] = {}
        videos, born = [], []
        for at in rows:
            facts = [column[at] for column in columns]
            channel = _channel(*facts[:2])
            if channel is not None:
                channels[channel.id] = channel
            videos.append(_video(known["video_id"][at], channel, tag_separator, *facts[2:]))
            born.append(known["born"][at])
        policy = AgePolicy()

        async def write(only: Collection[str] | None, answers: Answers | None) -> Undecided:
            some = [
                (video, first)
                for video, first in zip(videos, born, strict=True)
                if only is None or video.id in only
            ]
            async with self._database.transaction() as session:
                published = {video.id: video.published_at for video, _ in some}
                seen = await RingReader(session).find(published, answers, published)
                repository, watchlist = Videos(session, answers), Watchlist(session, answers)
                await repository.discover([video for video, _ in some], channels.values(), seen)
                now = await repository.now()
                tier = functools.cache(lambda moment: policy.tier(moment, now))
                # a video is at least as old as its first sample here
                entries = [
                    NewEntry(
                        video.id,
                        tier(video.published_at or first or now),
                        published_at=video.published_at,
                    )
                    for video, first in some
                ]
                await watchlist.add(entries, seen)
                return repository.undecided | watchlist.undecided

        self.undecided += len(await until_decided(self._database, self._store, write))

    def _is_news(self, row: tuple[object, ...]) -> bool:
        """Whether these facts were not written yet; when the video was first seen is none of them."""
        key = hash(row)
        if key in self._written:
            return False
        if len(self._written) < self._REMEMBERED:
            self._written.add(key)
        return True


class Facts:
    """The facts of videos in a temporary file, one row a video as far as memory reaches.

    ``videos`` counts the different ones, once all were added.
    """

    def __init__(self, folder: Path) -> None:
        self._spool = Spool(folder / "facts")
        self._ids = Distinct(folder)
        self._held: list[pa.Table] = []
        self._bytes = 0
        self._group = -1

    def add(self, facts: pa.Table, group: int) -> None:
        """Take in the facts of a batch."""
        if group != self._group or self._bytes > _FACTS_BYTES:
            self._flush()
        self._held.append(facts)
        self._bytes += facts.nbytes
        self._group = group

    def _flush(self) -> None:
        facts = distinct(pa.concat_tables(self._held)) if self._held else None
        if facts is not None and facts.num_rows:
            self._ids.add(facts["video_id"])
            self._spool.add(facts, self._group)
        self._held, self._bytes = [], 0

    def videos(self) -> int:
        """How many videos there are; ends the adding."""
        self._flush()
        return self._ids.total()

    def __iter__(self) -> Iterator[tuple[int, pa.Table]]:
        return iter(self._spool)


def distinct(facts: pa.Table) -> pa.Table:
    """One row a video, of each fact the last that is known; ``born`` is the first time."""
    codes, firsts = numbered(facts, ["video_id"])
    if len(firsts) == facts.num_rows:
        return facts
    born = pc.fill_null(facts["born"].cast(pa.int64()), _NEVER).to_numpy()
    earliest = np.full(len(firsts), _NEVER)
    np.minimum.at(earliest, codes, born)
    made = {
        "video_id": facts["video_id"].take(pa.array(firsts)),
        "born": pa.array(earliest, mask=earliest == _NEVER).cast(MOMENT),
    }
    named = [name for name in facts.column_names if name in FACTS]
    return pa.table(made | {name: last(facts[name], codes, len(firsts)) for name in named})


def _values(column: pa.Array) -> list[Any]:
    if column.type != MOMENT:
        return list(column.to_pylist())
    # by way of numpy six times as quick
    moments = column.to_numpy(zero_copy_only=False).tolist()
    return [moment and moment.replace(tzinfo=UTC) for moment in moments]


def _channel(channel_id: str | None, title: str | None) -> Channel | None:
    if channel_id:
        return Channel(channel_id, title or channel_id)
    return Channel(values.derived_channel_id(title), title) if title else None


def _video(
    video_id: str,
    channel: Channel | None,
    tag_separator: str,
    title: str | None,
    published_at: datetime | None,
    duration: int | None,
    tags: str | None,
    category_id: str | None,
    default_language: str | None,
) -> Video:
    return Video(
        id=video_id,
        title=title or video_id,
        channel_id=channel.id if channel else None,
        published_at=published_at,
        duration=duration,
        tags=values.tags(tags, tag_separator) or None if tags else None,
        category_id=category_id,
        default_language=default_language,
    )


class Distinct:
    """Counts different ids in bounded memory: their hashes, shared out over files where they are many."""

    _MOST, _FILES = 1 << 20, 64

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held: list[Any] = []
        self._count = 0
        self._spilt = False

    def add(self, ids: pa.ChunkedArray) -> None:
        """Take ids into account."""
        hashes = np.fromiter((hash(one) for one in ids.to_pylist()), np.int64, len(ids))
        self._held.append(hashes)
        self._count += len(hashes)
        if self._count > self._MOST:
            self._held = [np.unique(np.concatenate(self._held))]
            self._count = len(self._held[0])
            if self._count > self._MOST // 2:
                self._spill()

    def _spill(self) -> None:
        self._spilt = True
        (hashes,) = self._held
        for number in range(self._FILES):
            with (self._folder / f"ids-{number}").open("ab") as file:
                hashes[hashes % self._FILES == number].tofile(file)
        self._held, self._count = [], 0

    def total(self) -> int:
        """How many there were."""
        if not self._spilt:
            return len(np.unique(np.concatenate(self._held))) if self._held else 0
        self._held = [np.concatenate(self._held)] if self._held else [np.array([], np.int64)]
        self._spill()
        files = (self._folder / f"ids-{number}" for number in range(self._FILES))
        return sum(len(np.unique(np.fromfile(file, np.int64))) for file in files)
