"""What PostgreSQL and its drivers raise, in the terms of `atlas.errors`.

Decided by SQLSTATE (see "PostgreSQL Error Codes" in its manual) and by exception type, never by the
text of a message. What is not known stays a plain `DatabaseError` with its code.
"""

from __future__ import annotations

import ssl

import asyncpg
from sqlalchemy.exc import DBAPIError, PendingRollbackError, StatementError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from atlas.errors import (
    AtlasError,
    ConfigurationError,
    DatabaseError,
    DatabaseUnavailable,
    MigrationsPending,
)

#: SQLAlchemy's code for a transaction whose connection has gone.
_CONNECTION_LOST = "8s2b"

#: Codes and two-letter classes after which the same unit of work may succeed, with what to say.
_TRANSIENT: dict[str, str | None] = {
    "08": None,
    "25P03": "a transaction was left idle too long; do slow work outside of it",
    "40": "another transaction was in the way; run the whole unit of work again",
    "53300": "PostgreSQL has no connection left; lower DATABASE_POOL_SIZE or use a pooler",
    "55P03": "a lock could not be acquired in time; run the whole unit of work again",
    "57P": None,
}

_POOLER = (
    "a pooler in transaction mode is in between: set DATABASE_POOL_MODE=transaction, "
    "or give DATABASE_URL the server's own port"
)

#: Codes and classes that a person mends in the settings, the server or the grants; the first that fits.
_CONFIGURATION: dict[str, str] = {
    "28P01": "check the user and the password in DATABASE_URL",
    "28": "check the user in DATABASE_URL and the server's pg_hba.conf; a server that takes encrypted "
    "connections only wants sslmode=require in DATABASE_URL",
    "3D000": "create the database or correct its name in DATABASE_URL",
    "42501": "`atlas db roles` prints which role may do what, and the grants for it",
    # duplicate_prepared_statement, invalid_sql_statement_name
    "42P05": _POOLER,
    "26000": _POOLER,
}

_HINTS = {
    "53100": "the disk of PostgreSQL is full: free space; nothing was half-written",
    "53200": "PostgreSQL is out of memory",
    "57014": "somebody cancelled the statement, or a timeout of the server did; `atlas doctor` looks for one",
    "25006": "PostgreSQL takes no writes here: a read-only transaction or a standby",
}

#: undefined_table, undefined_column, undefined_function.
_MISSING_SCHEMA = frozenset({"42P01", "42703", "42883"})


def from_sqlstate(
    sqlstate: str | None, error: BaseException, *, where: str | None = None
) -> AtlasError:
    """The error of the tree for a SQLSTATE; raise it ``from error``. ``where`` is what was connected to."""
    code = sqlstate or None
    message = _primary_message(error)
    if where is not None:
        message = f"{where}: {message}"
    if code is None:
        return DatabaseError(message)
    if code in _MISSING_SCHEMA:
        return MigrationsPending(f"the database lacks a table, column or function: {message}")
    for key, remedy in _CONFIGURATION.items():
        if code.startswith(key):
            return ConfigurationError(f"PostgreSQL refused: {message}", hint=remedy)
    constraint = _diagnosis(error, "CONSTRAINT_NAME")
    for key, hint in _TRANSIENT.items():
        if code.startswith(key):
            return DatabaseUnavailable(message, sqlstate=code, constraint=constraint, hint=hint)
    return DatabaseError(message, sqlstate=code, constraint=constraint, hint=_HINTS.get(code))


def pool_timeout() -> DatabaseUnavailable:
    """The error where no connection of a pool became free in time."""
    return DatabaseUnavailable(
        "every connection of the pool is in use",
        hint="raise DATABASE_POOL_SIZE or DATABASE_POOL_TIMEOUT, or hold sessions for a shorter time",
    )


def translate(
    error: BaseException, *, where: str = "PostgreSQL", connecting: bool = False
) -> AtlasError | None:
    """The error of the tree for what SQLAlchemy, asyncpg or a socket raised; None for other things.

    ``where`` names the server in messages, of all failures while ``connecting``; it holds no secret.
    """
    if isinstance(error, AtlasError):
        return None
    if isinstance(error, PoolTimeout):
        return pool_timeout()
    if isinstance(error, PendingRollbackError) and error.code == _CONNECTION_LOST:
        return DatabaseUnavailable(f"the connection to {where} broke within the transaction")
    driver = _driver_error(error)
    if isinstance(driver, asyncpg.exceptions.InternalClientError):
        return DatabaseUnavailable(f"the connection to {where} broke")
    if isinstance(driver, asyncpg.exceptions.ClientConfigurationError):
        return ConfigurationError(f"DATABASE_URL: {driver}", hint="correct DATABASE_URL")
    if isinstance(driver, ssl.SSLCertVerificationError):
        return ConfigurationError(
            f"the certificate of {where} is not trusted", hint="check sslmode and sslrootcert"
        )
    sqlstate = getattr(driver, "sqlstate", None)
    if isinstance(driver, asyncpg.exceptions.InvalidCachedStatementError):
        return DatabaseUnavailable(
            _primary_message(driver),
            sqlstate=sqlstate,
            hint="a table was changed meanwhile; run the whole unit of work again",
        )
    if sqlstate:
        return from_sqlstate(sqlstate, driver, where=where if connecting else None)
    if isinstance(driver, OSError | TimeoutError):
        return DatabaseUnavailable(f"cannot reach {where}: {type(driver).__name__}")
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return DatabaseUnavailable(f"the connection to {where} was lost")
    if type(driver) is asyncpg.InterfaceError:
        # what asyncpg says of a connection that is closed, or still at another statement that was cut off
        return DatabaseUnavailable(
            f"the connection to {where} cannot be used any more: {driver}",
            hint="run the whole unit of work again; one session serves one task at a time",
        )
    if isinstance(error, DBAPIError) or isinstance(driver, _DRIVER_ERRORS):
        return from_sqlstate(None, driver)
    return None


_DRIVER_ERRORS = (asyncpg.PostgresError, asyncpg.InterfaceError)


def _driver_error(error: BaseException) -> BaseException:
    """The exception of the driver underneath SQLAlchemy's two wrappers, or ``error`` itself."""
    wrapped = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    cause = wrapped.__cause__
    return cause if isinstance(cause, _DRIVER_ERRORS) else wrapped


def _primary_message(error: BaseException) -> str:
    # the DETAIL line quotes rows, and other lines the statement: neither has a place in a log
    message = _diagnosis(error, "MESSAGE_PRIMARY") or getattr(error, "message", None)
    if isinstance(message, str) and message:
        return message
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__


def _diagnosis(error: BaseException, field: str) -> str | None:
    """A field of the server's report, by libpq's name: asyncpg has attributes, ADBC a list."""
    for name, value in getattr(error, "details", None) or ():
        if name in (f"PG_DIAG_{field}", f"PG_DIAG_{field}".encode()):
            return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
    value = getattr(error, field.lower(), None)
    return value if isinstance(value, str) else None


def cause_of(error: Exception) -> str:
    """What happened, in a line; SQLAlchemy's own text would repeat the statement with its values."""
    cause = error.orig if isinstance(error, StatementError) and error.orig else error
    return f"{type(cause).__name__}: {cause}"
