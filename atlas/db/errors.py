"""What PostgreSQL and its drivers raise, in the terms of `atlas.errors`.

Decided by SQLSTATE (see "PostgreSQL Error Codes" in its manual) and by exception type, never by the
text of a message. What is not known stays a plain `DatabaseError` with its code.
"""

from __future__ import annotations

import ssl

import asyncpg
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from atlas.errors import (
    AtlasError,
    ConfigurationError,
    DatabaseError,
    DatabaseUnavailable,
    MigrationsPending,
)

#: Codes and two-letter classes after which the same unit of work may succeed, with what to say.
_TRANSIENT: dict[str, str | None] = {
    "08": None,
    "25P03": "a transaction was left idle too long; do slow work outside of it",
    "40": "another transaction was in the way; run the whole unit of work again",
    "53300": "PostgreSQL has no connection left; lower DATABASE_POOL_SIZE or use a pooler",
    "55P03": "a lock was not had in time; run the whole unit of work again",
    "57P": None,
}

#: Codes and classes that a person mends in the settings, the server or the grants.
_CONFIGURATION: dict[str, str] = {
    "28": "check the user and the password in DATABASE_URL",
    "3D000": "create the database or correct its name in DATABASE_URL",
    "42501": "grant the role of DATABASE_URL the privilege",
}

_HINTS = {
    "53100": "the disk of PostgreSQL is full: free space; nothing was half-written",
    "53200": "PostgreSQL is out of memory",
    "25006": "PostgreSQL takes no writes here: a read-only transaction or a standby",
}

#: undefined_table, undefined_column.
_MISSING_SCHEMA = frozenset({"42P01", "42703"})


def from_sqlstate(sqlstate: str | None, error: BaseException) -> AtlasError:
    """The error of the tree for a SQLSTATE; raise it ``from error``."""
    code = sqlstate or None
    message = _primary_message(error)
    if code is None:
        return DatabaseError(message)
    if code in _MISSING_SCHEMA:
        return MigrationsPending(f"the database lacks a table or column: {message}")
    for key, remedy in _CONFIGURATION.items():
        if code.startswith(key):
            return ConfigurationError(f"PostgreSQL refused: {message}", hint=remedy)
    constraint = getattr(error, "constraint_name", None)
    for key, hint in _TRANSIENT.items():
        if code.startswith(key):
            return DatabaseUnavailable(message, sqlstate=code, constraint=constraint, hint=hint)
    return DatabaseError(message, sqlstate=code, constraint=constraint, hint=_HINTS.get(code))


def translate(error: BaseException, *, where: str = "PostgreSQL") -> AtlasError | None:
    """The error of the tree for what SQLAlchemy, asyncpg or a socket raised; None for other things.

    ``where`` names the server in messages; it holds no secret.
    """
    if isinstance(error, AtlasError):
        return None
    if isinstance(error, PoolTimeout):
        return DatabaseUnavailable(
            "every connection of the pool is in use",
            hint="raise DATABASE_POOL_SIZE, or hold sessions for a shorter time",
        )
    driver = _driver_error(error)
    if isinstance(driver, asyncpg.exceptions.ClientConfigurationError):
        return ConfigurationError(f"DATABASE_URL: {driver}", hint="correct DATABASE_URL")
    if isinstance(driver, ssl.SSLCertVerificationError):
        return ConfigurationError(
            f"the certificate of {where} is not trusted", hint="check sslmode and sslrootcert"
        )
    sqlstate = getattr(driver, "sqlstate", None)
    if sqlstate:
        return from_sqlstate(sqlstate, driver)
    if isinstance(driver, OSError | TimeoutError):
        return DatabaseUnavailable(f"cannot reach {where}: {type(driver).__name__}")
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return DatabaseUnavailable(f"the connection to {where} was lost")
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
    # the DETAIL line quotes rows, which have no place in a log
    message = getattr(error, "message", None)
    if isinstance(message, str) and message:
        return message
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__
