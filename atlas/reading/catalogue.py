"""Which files of a vault count, by what the vault itself records; docs/cold-reader.md is the protocol."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from atlas.errors import VaultError, VaultUnavailable, WrongVault
from atlas.logging import get_logger
from atlas.reading.appended import appended_files
from atlas.reading.footers import Footer, fetch_footer, footers
from atlas.reading.manifest import Manifest, ManifestFile, decode_manifest, manifest_key
from atlas.repositories.hot.snapshot import ColdFile, Selection
from atlas.repositories.ledger.digests import Erased
from atlas.retry import block
from atlas.types import Dataset, ObjectInfo, ObjectStore, ReadableStore
from atlas.vault.marks import Mark, read_mark
from atlas.vault.owners import owners_of
from atlas.vault.records import read_erasures

log = get_logger(__name__)

#: Looks at a vault that changes all the time, each a little later than the last.
_LOOKS = 20
_PAUSE_SECONDS = 0.05
_FOOTERS_AT_ONCE = 8
_FOREVER = (datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC))


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The files of samples and the appended ones that count, as of one moment.

    ``is_exact``: nothing but the owner's manifest had to be asked, and its counts of rows hold.
    """

    files: tuple[ManifestFile, ...]
    appended: tuple[ColdFile, ...]
    erased: Erased | None
    is_exact: bool


class _Changed(Exception):
    """The vault changed during a look."""


class CatalogueReader:
    """Looks at a vault; remembers between looks whose it is and which ids are forgotten."""

    def __init__(self, store: ObjectStore, as_seen_here: ReadableStore) -> None:
        self._store, self._seen_here = store, as_seen_here
        self._owner: uuid.UUID | None = None
        self._erasures: dict[str, tuple[bytes, ...]] = {}
        self._others: dict[str, str] = {}

    def look(self) -> Catalogue:
        """What counts now. Blocking.

        Raises `WrongVault` where the vault is several databases' or was moved, `CorruptObject` for an
        object that may be a damaged file, `VaultUnavailable` where the vault never held still, `VaultError`.
        """
        for number in range(_LOOKS):
            block(_PAUSE_SECONDS * number)
            try:
                return self._look()
            except _Changed as change:
                log.debug("cold_look_repeated", reason=str(change))
        raise VaultUnavailable(
            f"{self._store.identity} changed at each of {_LOOKS} looks",
            hint="wait until the archiver's job is over",
        )

    def names(self, key: str) -> bool:
        """Whether the manifest of now names an object as live."""
        manifest = None if self._owner is None else self._manifest(self._owner)
        return manifest is not None and manifest.names(key)

    def _look(self) -> Catalogue:
        owner = self._owner = self._owner or self._whose()
        # the manifest before the epoch: what was settled when it was read still is when the epoch is its own
        manifest = None if owner is None else self._manifest(owner)
        mark = self._mark(owner)
        erased = self._erased(owner)
        exact = manifest is not None and manifest.is_of(mark)
        before = frozenset() if exact else self._listed().keys()
        adopted = frozenset() if manifest is None else manifest.adopted
        appended = tuple(appended_files(self._seen_here, Selection(), adopted))
        listed = {} if exact else self._listed()
        if self._mark(owner) != mark:
            raise _Changed("a job began")
        if not before <= listed.keys():
            raise _Changed("files were deleted")
        if manifest is not None and exact:
            return Catalogue(manifest.files, appended, erased, is_exact=not manifest.erasing)
        try:
            files = tuple(self._counting(listed, manifest))
        except VaultError as error:
            if error.path is None or self._store.stat(error.path) is not None:
                raise
            # a newer manifest does not name it, or it was listed and deleted since
            if error.path in listed or (owner and self._manifest(owner) != manifest):
                raise _Changed("a file was replaced") from error
            raise
        return Catalogue(files, appended, erased, is_exact=False)

    def _whose(self) -> uuid.UUID | None:
        """The owner; None for a vault into which nobody ever archived."""
        owners = owners_of(self._store) or self._owners_in_footers()
        if len(owners) > 1:
            raise WrongVault(
                f"{self._store.identity} holds the samples of {len(owners)} databases: "
                f"{', '.join(map(str, sorted(owners)))}",
                hint="give each a prefix of its own with `atlas vault move`, and read one of them",
            )
        return next(iter(owners), None)

    def _owners_in_footers(self) -> frozenset[uuid.UUID]:
        infos = list(self._listed().values())
        return frozenset(one for _, one in self._footers(infos) if one is not None)

    def _manifest(self, owner: uuid.UUID) -> Manifest | None:
        raw = self._store.get_bytes(manifest_key(owner))
        return None if raw is None else decode_manifest(raw, owner)

    def _mark(self, owner: uuid.UUID | None) -> Mark | None:
        if owner is None:
            return None
        mark, _ = read_mark(self._store, owner)
        if mark is not None and mark.moved_to is not None:
            raise WrongVault(
                f"this vault was moved to {mark.moved_to}",
                hint="set the VAULT_* settings to where it is",
            )
        return mark

    def _erased(self, owner: uuid.UUID | None) -> Erased | None:
        if owner is None:
            return None
        self._erasures.update(read_erasures(self._store, owner, self._erasures.keys()))
        digests = frozenset(one for found in self._erasures.values() for one in found)
        return Erased(owner, digests) if digests else None

    def _listed(self) -> dict[str, ObjectInfo]:
        return {
            info.key: info for info in self._store.list(str(Dataset.STATS)) if _is_data(info.key)
        }

    def _counting(
        self, listed: Mapping[str, ObjectInfo], manifest: Manifest | None
    ) -> Iterable[ManifestFile]:
        """The own files among those that are there."""
        known = {} if manifest is None else {file.key: file for file in manifest.files}
        dead = frozenset() if manifest is None else manifest.replaced | manifest.aside
        for key, file in known.items():
            if key not in listed:
                raise VaultError(
                    f"{key} counts and is not in the vault",
                    path=key,
                    hint="somebody deleted it: restore it from the vault's history or a backup",
                )
            yield file
        unknown = [listed[key] for key in listed if key not in known and key not in dead]
        for file, owner in self._footers(unknown):
            if owner == self._owner:
                yield file
            elif file.key not in self._others:
                self._others[file.key] = reason = f"it has the owner's mark {owner}"
                log.warning("cold_file_left_out", key=file.key, reason=reason)

    def _footers(
        self, infos: Collection[ObjectInfo]
    ) -> Iterable[tuple[ManifestFile, uuid.UUID | None]]:
        """What files say of themselves, and whose they are."""
        with ThreadPoolExecutor(_FOOTERS_AT_ONCE, thread_name_prefix="atlas-footers") as pool:
            yield from pool.map(self._footer, infos)

    def _footer(self, info: ObjectInfo) -> tuple[ManifestFile, uuid.UUID | None]:
        cold = ColdFile(info.key, self._store.identity, *_FOREVER, None, info.size, in_ledger=True)
        footer = footers.get(cold)
        if footer is None:
            footer, _ = fetch_footer(self._store, cold)
            footers.put(cold, footer)
        return described(info, footer), _owner_in(footer)


def described(info: ObjectInfo, footer: Footer) -> ManifestFile:
    """What the footer of a file says of its rows."""
    groups = [group for group in footer.groups if group.rows]
    return ManifestFile(
        info.key,
        info.size,
        footer.metadata.num_rows,
        _outermost(min, [group.first for group in groups]),
        _outermost(max, [group.last for group in groups]),
        _outermost(min, [group.first_id for group in groups]),
        _outermost(max, [group.last_id for group in groups]),
    )


def _outermost(pick: Callable[[list[Any]], Any], values: list[Any]) -> Any:
    """A bound of all row groups; None where one of them does not record its own."""
    return None if not values or None in values else pick(values)


def _owner_in(footer: Footer) -> uuid.UUID | None:
    said = (footer.metadata.metadata or {}).get(b"atlas.owner")
    try:
        return None if said is None else uuid.UUID(said.decode())
    except ValueError:
        return None


def _is_data(key: str) -> bool:
    name = key.rsplit("/", 1)[-1]
    return name.endswith(".parquet") and not name.startswith(("_", "."))
