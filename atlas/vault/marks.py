"""The vault's side of the epoch: one small object for each database that archives into it."""

from __future__ import annotations

import json
import socket
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime

from atlas.errors import CorruptObject
from atlas.types import ObjectStore
from atlas.vault.owners import EPOCHS


@dataclass(frozen=True, slots=True)
class OtherSide:
    """Who last moved the epoch: which one it is, when and from which host (None: not recorded)."""

    epoch: int
    at: datetime | None
    host: str | None

    def __str__(self) -> str:
        when = "" if self.at is None else f", reached {self.at:%Y-%m-%d %H:%M:%S} UTC"
        where = "" if self.host is None else f" from {self.host}"
        return f"epoch {self.epoch}{when}{where}"


@dataclass(frozen=True, slots=True)
class Mark:
    """An epoch as it is in the vault. Two are the same where number and nonce are.

    ``moved_to`` is where the vault went, where it was moved away.
    """

    epoch: int
    nonce: uuid.UUID
    at: datetime | None = None
    host: str | None = None
    moved_to: str | None = None

    @classmethod
    def now(cls, epoch: int, nonce: uuid.UUID, moved_to: str | None = None) -> Mark:
        """A mark of this moment and host."""
        at = datetime.now(UTC).replace(microsecond=0)
        return cls(epoch, nonce, at, socket.gethostname(), moved_to)

    def is_same(self, epoch: int, nonce: uuid.UUID | None) -> bool:
        """Whether it is this epoch."""
        return (self.epoch, self.nonce) == (epoch, nonce)

    @property
    def side(self) -> OtherSide:
        """Who made it."""
        return OtherSide(self.epoch, self.at, self.host)

    def encode(self) -> bytes:
        """The object's content."""
        content = {
            "epoch": self.epoch,
            "nonce": str(self.nonce),
            "at": None if self.at is None else self.at.isoformat(),
            "host": self.host,
            "moved_to": self.moved_to,
        }
        return json.dumps(
            {name: value for name, value in content.items() if value is not None}
        ).encode()

    @classmethod
    def decode(cls, raw: bytes, key: str) -> Mark:
        """The mark in an object. Raises `CorruptObject`."""
        try:
            content = json.loads(raw)
            at = content.get("at")
            return cls(
                int(content["epoch"]),
                uuid.UUID(content["nonce"]),
                None if at is None else datetime.fromisoformat(at),
                content.get("host"),
                content.get("moved_to"),
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CorruptObject(f"{key} is not an epoch", path=key) from error


def epoch_key(owner: uuid.UUID) -> str:
    """Where the epoch of a database lies in the vault."""
    return f"{EPOCHS}/{owner}.json"


def read_mark(store: ObjectStore, owner: uuid.UUID) -> tuple[Mark | None, bytes | None]:
    """The epoch of a database, and the bytes that a swap must find. Raises `CorruptObject`."""
    key = epoch_key(owner)
    raw = store.get_bytes(key)
    return (None if raw is None else Mark.decode(raw, key)), raw
