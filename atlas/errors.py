"""The error tree of Atlas, arranged by what the caller can do about a failure.

::

    AtlasError
    ├── ConfigurationError (ValueError)      fix a setting, a migration, a permission
    │   ├── MigrationsPending                run `atlas db upgrade`
    │   └── WrongVault                       point the settings at the vault of the ledger
    ├── InvalidInput (ValueError)            fix the input; names row, field and value
    ├── NotFound (LookupError)               the thing asked for is not there
    ├── Unavailable                          wait and retry the whole unit of work
    │   ├── DatabaseUnavailable              (also a DatabaseError)
    │   └── VaultUnavailable                 (also a VaultError)
    ├── Conflict                             somebody else was first; read again and decide
    │   ├── ArchiverBusy                     another archiver is at work
    │   ├── LeaseLost                        the lease or fence ran out; the work belongs to another
    │   └── ObjectExists                     (also a VaultError) a create-only write found an object
    ├── Damaged                              call a human: what is stored is not what was written
    │   ├── VerificationFailed               (also a VaultError) an object differs from the ledger
    │   └── EpochBehind                      this database is older than its vault
    ├── QuotaExhausted                       every key of the ring is spent; come back after the reset
    ├── DatabaseError                        any failure of PostgreSQL
    └── VaultError                           any failure of the vault
        ├── VaultDenied                      (also a ConfigurationError) wrong token or permission
        ├── VaultFull                        no space left on the device or in the quota
        └── CorruptObject                    (also Damaged) an object cannot be decoded

Every error carries ``hint``, a sentence that says what to do. Secrets never enter a message.
"""

from __future__ import annotations

import errno
from datetime import datetime
from typing import Any

__all__ = [
    "ArchiverBusy",
    "AtlasError",
    "ConfigurationError",
    "Conflict",
    "CorruptObject",
    "Damaged",
    "DatabaseError",
    "DatabaseUnavailable",
    "EpochBehind",
    "InvalidInput",
    "LeaseLost",
    "MigrationsPending",
    "NotFound",
    "ObjectExists",
    "QuotaExhausted",
    "Unavailable",
    "VaultDenied",
    "VaultError",
    "VaultFull",
    "VaultUnavailable",
    "VerificationFailed",
    "WrongVault",
]


#: By what numbers the operating system says that no space is left.
NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class AtlasError(Exception):
    """Root of everything Atlas raises on purpose.

    ``hint`` says what the reader can do; ``str(error)`` is the message followed by the hint.
    """

    hint: str | None = None

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        if hint is not None:
            self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class ConfigurationError(AtlasError, ValueError):
    """A setting, a permission or the state of the installation is wrong."""


class MigrationsPending(ConfigurationError):
    """The schema of the database is not the one this version of Atlas needs."""

    hint = "run `atlas db upgrade`"


class WrongVault(ConfigurationError):
    """The ledger names files in another vault than the configured one."""

    hint = "restore the VAULT_* settings that this database was archived with"


class InvalidInput(AtlasError, ValueError):
    """A value given by the caller cannot be taken.

    ``row`` is the zero-based position in a batch (or None), ``field`` the name of the field and
    ``value`` what was found there.
    """

    def __init__(
        self,
        message: str,
        *,
        row: int | None = None,
        field: str | None = None,
        value: Any = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.row = row
        self.field = field
        self.value = value


class NotFound(AtlasError, LookupError):
    """The thing asked for does not exist."""


class Unavailable(AtlasError):
    """A service did not answer, or asked to be left alone; the same call may work later.

    ``retry_after`` is in how many seconds, where that is known.
    """

    hint = "retry later"
    retry_after: float | None = None


class Conflict(AtlasError):
    """Somebody else holds or already wrote what was asked for."""


class ArchiverBusy(Conflict):
    """Another archiver holds the archive lock of this database."""

    hint = "wait for it, or run `atlas archive --wait`"


class LeaseLost(Conflict):
    """A lease or a fencing token is no longer the current one; nothing was changed.

    ``keys`` are the rows concerned, where there are several.
    """

    hint = "drop this piece of work: another worker has it"

    def __init__(
        self, message: str, *, keys: tuple[str, ...] = (), hint: str | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.keys = keys


class Damaged(AtlasError):
    """What is stored is not what was written. A person has to look."""


class EpochBehind(Damaged):
    """The vault has been written by a newer history of this database than the one connected."""

    hint = (
        "if this database was restored or promoted, run `atlas vault adopt`; if a copy of it used this "
        "vault, stop the copy and run `atlas vault adopt --set-aside`"
    )


class QuotaExhausted(AtlasError):
    """Every key of a ring has spent its quota.

    ``pool_name`` names the ring; ``retry_at`` (timezone-aware) is when its first key comes back.
    """

    def __init__(
        self,
        message: str,
        *,
        pool_name: str,
        retry_at: datetime | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.pool_name = pool_name
        self.retry_at = retry_at


class DatabaseError(AtlasError):
    """PostgreSQL refused or failed. ``sqlstate`` is its code (or None), ``constraint`` the name."""

    def __init__(
        self,
        message: str,
        *,
        sqlstate: str | None = None,
        constraint: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.sqlstate = sqlstate
        self.constraint = constraint


class DatabaseUnavailable(DatabaseError, Unavailable):
    """PostgreSQL cannot be reached, is starting or stopping, or a lock could not be acquired in time."""

    hint = "check that PostgreSQL is up and reachable, then retry"


class VaultError(AtlasError):
    """The vault failed. ``path`` is the object or prefix concerned (or None)."""

    def __init__(self, message: str, *, path: str | None = None, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.path = path


class VaultUnavailable(VaultError, Unavailable):
    """The vault did not answer or asked to be left alone."""


class VaultDenied(VaultError, ConfigurationError):
    """The vault refused the credentials, or they lack a permission."""

    hint = "check the token or key and its permissions"


class VaultFull(VaultError):
    """No space is left on the device or in the quota of the vault."""

    hint = "free space or raise the quota; nothing was half-written"


class ObjectExists(VaultError, Conflict):
    """A create-only write found an object of that name."""


class CorruptObject(VaultError, Damaged):
    """An object exists but cannot be decoded."""


class VerificationFailed(VaultError, Damaged):
    """An object read back from the vault differs from what was written."""
