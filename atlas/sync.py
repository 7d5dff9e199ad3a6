"""Blocking calls for notebooks and scripts: samples as Arrow tables, and what is computed from them.

They work with or without a running event loop, Jupyter's included. Each reads both tiers (`StatsReader()`)
unless another reader is given: ``reader=ColdReader()`` reads the vault alone and needs no database.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Collection, Coroutine, Iterator, Sequence
from datetime import datetime, timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar

import pyarrow as pa

from atlas.errors import ConfigurationError, InvalidInput
from atlas.exporting import ExportReport, export_samples
from atlas.parsing import parse_boundary
from atlas.reader import COLUMNS, SampleReader, StatsReader, schema_of
from atlas.tables.growth import Growth
from atlas.tables.hourly import at_whole_hours
from atlas.types import Boundary, Progress

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "ExportReport",
    "count",
    "export",
    "history",
    "hourly",
    "scan",
    "to_pandas",
    "top_growth",
]

T = TypeVar("T")


def history(
    video_id: str,
    since: Boundary | None = None,
    until: Boundary | None = None,
    *,
    reader: SampleReader | None = None,
) -> pa.Table:
    """Every sample of one video with ``since <= timestamp < until``, in time order; see
    `StatsReader.history`."""
    with _Loop() as loop:
        return loop.run((reader or StatsReader()).history(video_id, since, until))


def scan(
    video_ids: Collection[str] | None = None,
    since: Boundary | None = None,
    until: Boundary | None = None,
    columns: Sequence[str] | None = None,
    *,
    ordered_by_time: bool = False,
    reader: SampleReader | None = None,
) -> Iterator[pa.RecordBatch]:
    """Iterate over the samples of these videos (None: all) in bounded memory; see `StatsReader.scan`.

    An iterator that is left early should be closed; else it is when it is collected.
    """
    with _Loop() as loop:
        batches = (reader or StatsReader()).scan(
            video_ids, since, until, columns, ordered_by_time=ordered_by_time
        )
        try:
            while (batch := loop.run(_next(batches))) is not None:
                yield batch
        finally:
            loop.run(batches.aclose())


def count(
    video_ids: Collection[str] | None = None,
    since: Boundary | None = None,
    until: Boundary | None = None,
    *,
    reader: SampleReader | None = None,
) -> int:
    """How many samples `scan` would return."""
    with _Loop() as loop:
        return loop.run((reader or StatsReader()).count(video_ids, since, until))


def to_pandas(
    table: pa.Table, dtype_backend: Literal["numpy_nullable", "pyarrow"] = "numpy_nullable"
) -> pd.DataFrame:
    """The table as a data frame in which counters stay whole numbers, exact up to 2^63 - 1.

    What is not known is ``<NA>``. (`pyarrow.Table.to_pandas` makes floats of a column with nulls, which are
    exact below 2^53 only.) With ``numpy_nullable`` counters are ``Int64`` and times ``datetime64[us, UTC]``,
    with ``pyarrow`` every column keeps its Arrow type. Raises `ConfigurationError` without pandas.
    """
    try:
        import pandas as pd
    except ImportError as error:
        raise ConfigurationError("pandas is not installed", hint="pip install pandas") from error
    if dtype_backend == "pyarrow":
        return table.to_pandas(types_mapper=pd.ArrowDtype)
    kinds = {pa.int64(): pd.Int64Dtype(), pa.string(): pd.StringDtype("python")}
    return table.to_pandas(types_mapper=kinds.get)


def hourly(
    video_ids: Collection[str],
    since: Boundary,
    until: Boundary,
    *,
    max_gap: timedelta | None = timedelta(days=8),
    reader: SampleReader | None = None,
) -> pa.Table:
    """The counters of these videos at every whole hour (UTC) of ``since <= hour < until``.

    Between two samples a counter is taken to be linear in time, rounded to a whole number; at the time of a
    sample it is the sample's. It is null, never extrapolated, before a video's first and after its last known
    value, and where the two samples around the hour lie further apart than ``max_gap`` (None: no bound), by
    default a little more than a week, the slowest regular interval. Samples up to ``max_gap`` outside of the
    span are read.

    As many rows as videos times hours, in order of (video_id, timestamp): video_id string, timestamp
    timestamp[us, UTC], views, likes, comment_count int64. Memory holds them all, and the samples.
    """
    ids = [video_ids] if isinstance(video_ids, str) else list(video_ids)
    first, last = (_moment(one, name) for one, name in ((since, "since"), (until, "until")))
    if max_gap is not None and max_gap <= timedelta(0):
        raise InvalidInput("max_gap is not above 0", field="max_gap", value=max_gap)
    around = (None, None) if max_gap is None else (_moved(first, -max_gap), _moved(last, max_gap))
    batches = scan(ids, *around, reader=reader)
    samples = pa.Table.from_batches(list(batches), schema_of(COLUMNS))
    return at_whole_hours(samples, ids, first, last, max_gap)


def top_growth(
    since: Boundary | None,
    until: Boundary | None,
    limit: int = 10,
    *,
    video_ids: Collection[str] | None = None,
    reader: SampleReader | None = None,
) -> pa.Table:
    """The ``limit`` videos whose views grew most in the span, the largest gain first, equal ones by id.

    The gain is the last known number of views minus the first one, both of samples in the span; a video with
    fewer than two such samples is left out, and a gain may be negative. Columns video_id string, gained,
    views_first, views_last int64, first, last timestamp[us, UTC]. Reads every sample of the span; memory
    holds two rows a video.
    """
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise InvalidInput("limit is a number from 1 on", field="limit", value=limit)
    growth = Growth()
    for batch in scan(video_ids, since, until, ["video_id", "timestamp", "views"], reader=reader):
        growth.add(pa.Table.from_batches([batch]))
    return growth.top(limit)


def export(
    path: str | os.PathLike[str],
    video_ids: Collection[str] | None = None,
    since: Boundary | None = None,
    until: Boundary | None = None,
    columns: Sequence[str] | None = None,
    *,
    format: str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    reader: SampleReader | None = None,
) -> ExportReport:
    """Write samples to a file, in bounded memory: Parquet, CSV or JSON lines, by its suffix or ``format``.

    Times are UTC, in text as ``2026-01-15T12:00:00.000000Z``; what is not known is null, in CSV empty.
    The file appears whole under its name or not at all, and replaces another one only with ``overwrite``.
    Raises `InvalidInput`, `VaultFull` or `VaultDenied` where the file cannot be written, and what reading
    raises.
    """
    with _Loop() as loop:
        return loop.run(
            export_samples(
                reader or StatsReader(),
                path,
                video_ids,
                since,
                until,
                columns,
                format=format,
                overwrite=overwrite,
                progress=progress,
            )
        )


def _moment(value: Boundary, field: str) -> datetime:
    found = parse_boundary(value, field=field)
    if found is None:
        raise InvalidInput(f"{field} is needed", field=field, hint="give both ends of the span")
    return found


def _moved(moment: datetime, by: timedelta) -> datetime | None:
    try:
        return moment + by
    except OverflowError:  # there is nothing beyond
        return None


async def _next(batches: Any) -> pa.RecordBatch | None:
    return await anext(batches, None)


class _Loop:
    """An event loop in a thread of its own, for as long as a call lasts."""

    def __enter__(self) -> Self:
        self._ready, self._over = threading.Event(), asyncio.Event()
        self._thread = threading.Thread(target=self._work, name="atlas-sync", daemon=True)
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The result; an interrupt cancels the work."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def _work(self) -> None:
        # closes generators and connections with the loop
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._ready.set()
        await self._over.wait()
