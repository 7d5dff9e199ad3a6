"""Reading PostgreSQL straight into Arrow: a synchronous connection for use in a worker thread.

ADBC's driver reads results by binary COPY and releases the interpreter lock meanwhile; see
docs/performance.md for what it was measured against.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
from adbc_driver_postgresql import StatementOptions, dbapi

from atlas.db.errors import from_sqlstate
from atlas.errors import DatabaseUnavailable

#: Large enough to be quick, small enough that work on one batch overlaps with the coming of the next.
_BATCH_BYTES = str(4 << 20)


class ArrowConnection:
    """One transaction on a connection of its own, rolled back at the end: it only reads.

    Use it as a context manager, in one thread at a time. Statements are given as text: values must be quoted
    by `literal`. Outside of a transaction a pooler in transaction mode could hand the parts of a statement to
    different servers.
    """

    def __init__(self, libpq_url: str) -> None:
        with _translated():
            self._connection = dbapi.connect(libpq_url, autocommit=False)
        try:
            self.execute("SET LOCAL TIME ZONE 'UTC'")
        except BaseException:
            self._connection.close()
            raise

    def __enter__(self) -> ArrowConnection:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def execute(self, statement: str) -> None:
        """Run a statement that returns nothing."""
        with _translated(), self._connection.cursor() as cursor:
            cursor.execute(statement)

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """The rows of a small result."""
        with _translated(), self._connection.cursor() as cursor:
            cursor.execute(query)
            return list(cursor.fetchall())

    def batches(self, query: str) -> Iterator[pa.RecordBatch]:
        """The result as record batches of about 4 MB, as they arrive."""
        with _translated(), self._connection.cursor() as cursor:
            cursor.adbc_statement.set_options(
                **{StatementOptions.BATCH_SIZE_HINT_BYTES.value: _BATCH_BYTES}
            )
            cursor.execute(query)
            with cursor.fetch_record_batch() as reader:
                yield from reader


def literal(value: str) -> str:
    """A text literal for SQL."""
    return "'" + value.replace("'", "''") + "'"


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except dbapi.OperationalError as error:
        if error.sqlstate:
            raise from_sqlstate(error.sqlstate, error) from error
        # libpq's own failures (refused, lost, timed out) carry no code
        raise DatabaseUnavailable(f"the connection to PostgreSQL failed: {error}") from error
    except dbapi.Error as error:
        raise from_sqlstate(error.sqlstate, error) from error
    except OSError as error:
        # a stream of batches has no other word for a connection that broke off
        raise DatabaseUnavailable(f"the connection to PostgreSQL was lost: {error}") from error
