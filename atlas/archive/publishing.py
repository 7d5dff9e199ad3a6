"""Publishing which files count, for readers without the database; docs/cold-reader.md is the protocol."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from atlas.db import Database
from atlas.errors import AtlasError, VaultUnavailable
from atlas.logging import get_logger
from atlas.reading.manifest import Manifest, ManifestFile, decode_manifest, manifest_key
from atlas.repositories.erasure import Erasure
from atlas.repositories.ledger.files import Control, FileRecord, LedgerWriter
from atlas.types import ArchiveState, Dataset, ObjectStore
from atlas.vault.offload import offload

log = get_logger(__name__)

#: Tries of a swap that another task of the same job was first with.
_ROUNDS = 4


@dataclass(frozen=True, slots=True)
class Publisher:
    """Writes the manifest of a job under its fence, from the ledger as it is."""

    database: Database
    store: ObjectStore
    control: Control
    fence: int

    async def publish_at_end(self) -> None:
        """Say which files count, as the last act of a job. Never raises: the next job's does as well.

        Where each put is a commit, nothing is written unless a file came or went.
        """
        try:
            await self._publish(settled=True)
        except AtlasError as error:
            log.warning("manifest_not_published", error=f"{type(error).__name__}: {error.message}")

    async def publish_before_deletion(self, keys: Sequence[str]) -> None:
        """Have no manifest in the vault name these objects, which do not count any more, as live.

        Raises `LeaseLost`, `VaultError`: they must not be deleted then.
        """
        published = await offload(self._published)
        if published is not None and not {file.key for file in published.files}.isdisjoint(keys):
            await self._publish(settled=False)

    async def _publish(self, *, settled: bool) -> None:
        for _ in range(_ROUNDS):
            # the bytes before the ledger: whoever publishes in between makes the swap fail
            raw = await offload(self.store.get_bytes, self._key)
            before = None if raw is None else decode_manifest(raw, self._owner)
            manifest = await self._manifest(settled=settled)
            if self.store.batch > 1 and settled and manifest.says_the_same(before):
                return
            if await offload(self.store.compare_and_swap, self._key, raw, manifest.encode()):
                log.debug("manifest_published", files=len(manifest.files), settled=settled)
                return
        raise VaultUnavailable(f"{self._key}: others were first {_ROUNDS} times", path=self._key)

    async def _manifest(self, *, settled: bool) -> Manifest:
        async with self.database.transaction() as session:
            ledger = LedgerWriter(session, self.fence)
            await ledger.hold()
            files = await ledger.named_files()
            erasing = bool(await Erasure(session).unfinished())
        samples = [file for file in files if file.dataset == Dataset.STATS]
        live = [file for file in samples if file.state == ArchiveState.LIVE]
        assert self.control.nonce is not None
        return Manifest(
            self._owner,
            self.control.epoch,
            self.control.nonce,
            settled,
            erasing,
            tuple(_described(file) for file in live if file.row_count),
            _keys(samples, ArchiveState.RETIRED),
            _keys(samples, ArchiveState.ASIDE),
            frozenset(file.object_key for file in files if file.dataset == Dataset.METRICS),
        )

    def _published(self) -> Manifest | None:
        raw = self.store.get_bytes(self._key)
        return None if raw is None else decode_manifest(raw, self._owner)

    @property
    def _owner(self) -> uuid.UUID:
        assert self.control.owner is not None
        return self.control.owner

    @property
    def _key(self) -> str:
        return manifest_key(self._owner)


def _described(file: FileRecord) -> ManifestFile:
    facts = file.facts
    return ManifestFile(
        file.object_key,
        facts.byte_size,
        facts.row_count,
        facts.min_timestamp,
        facts.max_timestamp,
        facts.min_video_id,
        facts.max_video_id,
    )


def _keys(files: Sequence[FileRecord], state: ArchiveState) -> frozenset[str]:
    return frozenset(file.object_key for file in files if file.state == state)
