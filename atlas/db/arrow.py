"""Reading PostgreSQL straight into Arrow: a synchronous connection for use in a worker thread.

ADBC's driver reads results by binary COPY and releases the interpreter lock meanwhile; see
docs/performance.md for what it was measured against. Its failures are the same errors as those of
`Database`: by SQLSTATE, or where it has none, by what asyncpg says of the same server.

The driver's DB-API would import pandas and polars where they are installed: 70 MB and a second.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import weakref
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import asyncpg
import pyarrow as pa
from adbc_driver_manager import AdbcConnection, AdbcDatabase, AdbcStatement, Error
from adbc_driver_manager._reader import AdbcRecordBatchReader
from adbc_driver_postgresql import StatementOptions, connect

from atlas.config import get_settings
from atlas.db import sessions
from atlas.db.errors import from_sqlstate, pool_timeout, translate
from atlas.db.url import translate_url, with_setting
from atlas.errors import AtlasError, ConfigurationError, DatabaseUnavailable
from atlas.forks import renew_in_child

#: Large enough to be quick, small enough that work on one batch overlaps with the coming of the next.
_BATCH_BYTES = str(4 << 20)


class ArrowConnection:
    """One transaction on a connection of its own, rolled back at the end: it only reads.

    Use it as a context manager, in one thread at a time. Statements are given as text: values must be quoted
    by `atlas.db.sql`. Outside of a transaction a pooler in transaction mode could hand the parts of a
    statement to different servers. A process has at most DATABASE_POOL_SIZE and `sessions.OVERFLOW` of
    them; raises `DatabaseUnavailable` when none becomes free in DATABASE_POOL_TIMEOUT.
    """

    def __init__(self, libpq_url: str) -> None:
        self._turns = _turns()
        if not self._turns.acquire(timeout=get_settings().database_pool_timeout):
            raise pool_timeout()
        self._streams: weakref.WeakSet[Generator[pa.RecordBatch]] = weakref.WeakSet()
        try:
            self._database, self._connection = _connect(libpq_url)
            # a pooler has given them to nobody, or to somebody else
            self._options = frozenset() if _pooled() else translate_url(libpq_url).options
        except BaseException:
            self._turns.release()
            raise
        try:
            self._settle()
        except BaseException:
            self.close()
            raise

    def _settle(self) -> None:
        with _translated():
            self._connection.set_autocommit(False)
        self.execute(sessions.preamble(local=True, options=self._options))
        (row,) = self._fetch(sessions.FACTS)
        if any(isinstance(value, bytes) for value in row):
            raise ConfigurationError(
                "the role or database of DATABASE_URL has quote_all_identifiers on, by which "
                "Arrow's driver knows no type, and a pooler that takes no settings is in between",
                hint="ALTER DATABASE or ROLE ... RESET quote_all_identifiers",
            )
        facts = sessions.Facts.of(*row)
        with _translated():
            self._connection.rollback()
        # takes no snapshot: what the caller locks first comes before any
        self.execute(sessions.preamble(facts, local=True, read_only=True, options=self._options))

    def close(self) -> None:
        """End the transaction and the connection."""
        try:
            for stream in list(self._streams):  # of those who ended in the middle
                stream.close()
            self._connection.close()
            self._database.close()
        finally:
            self._turns.release()

    def __enter__(self) -> ArrowConnection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def execute(self, statement: str) -> None:
        """Run statements that return nothing, several in one round trip where semicolons part them."""
        with _translated(), AdbcStatement(self._connection) as prepared:
            prepared.set_sql_query(statement)
            prepared.execute_update()

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """The rows of a small result."""
        return self._fetch(query)

    def _fetch(self, query: str) -> list[tuple[Any, ...]]:
        found: list[tuple[Any, ...]] = []
        for batch in self._stream(query):
            found += zip(*(column.to_pylist() for column in batch.columns), strict=True)
        return found

    def batches(self, query: str) -> Iterator[pa.RecordBatch]:
        """The result as record batches of about 4 MB, as they arrive."""
        found = self._stream(query)
        self._streams.add(found)
        return found

    def _stream(self, query: str) -> Generator[pa.RecordBatch]:
        with _translated(), AdbcStatement(self._connection) as statement:
            statement.set_options(**{StatementOptions.BATCH_SIZE_HINT_BYTES.value: _BATCH_BYTES})
            statement.set_sql_query(query)
            stream, _ = statement.execute_query()
            # pyarrow's own reader loses the SQLSTATE of what goes wrong on the way
            reader = AdbcRecordBatchReader._import_from_c(stream.address)
            try:
                yield from reader
            finally:
                reader.close()


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except Error as error:
        if error.sqlstate:
            raise from_sqlstate(error.sqlstate, error) from error
        # libpq's own failures (lost, timed out) carry no code
        raise DatabaseUnavailable("the connection to PostgreSQL failed") from error
    except OSError as error:
        # of a stream that was closed meanwhile pyarrow has no other word
        reason = str(error).splitlines()[0].rpartition("]: ")[2]
        raise DatabaseUnavailable(
            f"the rows of a query were lost on their way: {reason}"
        ) from error


_limit: dict[int, threading.BoundedSemaphore] = {}
_limit_lock = threading.Lock()


def _turns() -> threading.BoundedSemaphore:
    """The turns of this process, as many as the settings have now."""
    size = get_settings().database_pool_size + sessions.OVERFLOW
    with _limit_lock:
        if size not in _limit:
            _limit[size] = turns = threading.BoundedSemaphore(size)
            renew_in_child(turns, lambda _: _limit.pop(size, None))
        return _limit[size]


def _pooled() -> bool:
    return get_settings().database_pool_mode == "transaction"


def _connect(libpq_url: str) -> tuple[AdbcDatabase, AdbcConnection]:
    url = libpq_url
    if not _pooled():  # a pooler would refuse it
        # the driver looks up the names of types before anything can be set
        url = with_setting(url, "quote_all_identifiers", "off")
    try:
        database = connect(url)
        try:
            return database, AdbcConnection(database)
        except BaseException:
            database.close()
            raise
    except Error as error:
        raise _reason(libpq_url) from error


def _reason(libpq_url: str) -> AtlasError:
    """Why a connection fails to open: libpq has only text for that, asyncpg a code."""
    target = translate_url(libpq_url)

    async def attempt() -> None:
        connection = await asyncpg.connect(**target.asyncpg)
        await connection.close()

    with ThreadPoolExecutor(1) as thread:  # this one may have a loop
        error = thread.submit(asyncio.run, attempt()).exception()
    if error is None:
        return DatabaseUnavailable(f"the connection to {target.where} failed, and then succeeded")
    if isinstance(error, AtlasError):
        return error
    return translate(error, where=target.where, connecting=True) or DatabaseUnavailable(
        f"the connection to {target.where} failed: {type(error).__name__}"
    )
