"""The manifest: which files of a vault count, published there for readers without the database.

docs/cold-reader.md documents what may be concluded from it.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from atlas.logging import get_logger
from atlas.repositories.hot.snapshot import ColdFile, Selection
from atlas.vault.marks import Mark

log = get_logger(__name__)

_FORMAT = 1
_FOREVER = (datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC))


@dataclass(frozen=True, slots=True)
class ManifestFile:
    """A file of samples that counts. Bounds are inclusive; None where they are not known."""

    key: str
    bytes: int
    rows: int
    first: datetime | None
    last: datetime | None
    first_id: str | None
    last_id: str | None

    def as_cold(self, vault: str) -> ColdFile:
        """The file as readers take it."""
        first, last = self.first or _FOREVER[0], self.last or _FOREVER[1]
        return ColdFile(self.key, vault, first, last, self.rows, self.bytes, in_ledger=True)

    def may_touch(self, selection: Selection) -> bool:
        """Whether selected rows can be in it."""
        first, last = self.first or _FOREVER[0], self.last or _FOREVER[1]
        return selection.may_touch(first, last, self.first_id, self.last_id)

    def _encoded(self) -> dict[str, Any]:
        return {
            "key": self.key,
            "bytes": self.bytes,
            "rows": self.rows,
            "first": None if self.first is None else self.first.astimezone(UTC).isoformat(),
            "last": None if self.last is None else self.last.astimezone(UTC).isoformat(),
            "first_id": self.first_id,
            "last_id": self.last_id,
        }

    @classmethod
    def _decoded(cls, said: dict[str, Any]) -> ManifestFile:
        first, last = (
            None if said[name] is None else datetime.fromisoformat(said[name])
            for name in ("first", "last")
        )
        return cls(
            str(said["key"]),
            int(said["bytes"]),
            int(said["rows"]),
            first,
            last,
            said["first_id"],
            said["last_id"],
        )


@dataclass(frozen=True, slots=True)
class Manifest:
    """Which files of an owner count, as of a job's step.

    ``settled``: that step was the job's last. ``erasing``: files may hold rows of ids that are barred.
    ``replaced`` and ``aside`` are objects that do not count, ``adopted`` appended files whose rows lie in
    ``files``.
    """

    owner: uuid.UUID
    epoch: int
    nonce: uuid.UUID
    settled: bool
    erasing: bool
    files: tuple[ManifestFile, ...]
    replaced: frozenset[str] = frozenset()
    aside: frozenset[str] = frozenset()
    adopted: frozenset[str] = frozenset()

    def is_of(self, mark: Mark | None) -> bool:
        """Whether nothing that counts can have changed before the vault carried this epoch, and since."""
        return self.settled and mark is not None and mark.is_same(self.epoch, self.nonce)

    def names(self, key: str) -> bool:
        """Whether an object is live."""
        return any(file.key == key for file in self.files)

    def says_the_same(self, other: Manifest | None) -> bool:
        """Whether another one differs in nothing but the job."""
        return other is not None and self._content() == other._content()

    def _content(self) -> tuple[object, ...]:
        return self.owner, self.erasing, self.files, self.replaced, self.aside, self.adopted

    def encode(self) -> bytes:
        """The object's content."""
        return json.dumps(
            {
                "format": _FORMAT,
                "at": datetime.now(UTC).isoformat(timespec="seconds"),
                "owner": str(self.owner),
                "epoch": self.epoch,
                "nonce": str(self.nonce),
                "settled": self.settled,
                "erasing": self.erasing,
                "files": [file._encoded() for file in self.files],
                "replaced": sorted(self.replaced),
                "aside": sorted(self.aside),
                "adopted": sorted(self.adopted),
            }
        ).encode()


def manifest_key(owner: uuid.UUID) -> str:
    """Where the manifest of an owner lies."""
    return f"_atlas/manifests/{owner}.json"


def decode_manifest(raw: bytes, owner: uuid.UUID) -> Manifest | None:
    """The manifest in an object; None for one that cannot be read, is of a later format or not this owner's:
    footers and listings contain the same facts."""
    try:
        said = json.loads(raw)
        if said["format"] > _FORMAT or uuid.UUID(said["owner"]) != owner:
            raise ValueError("it is another owner's, or of a later version of Atlas")
        return Manifest(
            owner,
            int(said["epoch"]),
            uuid.UUID(said["nonce"]),
            bool(said["settled"]),
            bool(said["erasing"]),
            tuple(ManifestFile._decoded(one) for one in said["files"]),
            frozenset(map(str, said["replaced"])),
            frozenset(map(str, said["aside"])),
            frozenset(map(str, said["adopted"])),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        log.warning("manifest_unreadable", key=manifest_key(owner), error=str(error)[:200])
        return None
