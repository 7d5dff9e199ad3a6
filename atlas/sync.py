"""Blocking calls for notebooks and scripts: samples as Arrow tables, and what is computed from them.

They work with or without a running event loop, Jupyter's included. Each reads both tiers (`StatsReader()`)
unless another reader is given: ``reader=ColdReader()`` reads the vault alone and needs no database.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Collection, Coroutine, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar

import pyarrow as pa

from atlas.errors import ConfigurationError
from atlas.reader import SampleReader, StatsReader
from atlas.types import Boundary

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["count", "history", "scan", "to_pandas"]

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
