"""What must outlive any database: small objects in the vault, under ``_atlas/``.

A *batch* records which files replaced which, an *erasure* which ids were forgotten (hashes of them), a
*condemnation* which objects are about to be deleted.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

from atlas.errors import CorruptObject, ObjectExists, VerificationFailed
from atlas.logging import get_logger
from atlas.types import ObjectStore
from atlas.vault.owners import digest

T = TypeVar("T")

log = get_logger(__name__)

_FORMAT = 1
_READS_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class BatchRecord:
    """Files that take the place of others. ``slices`` are the ``seq`` of replaced files that were no merges.

    It replaces nothing before every one of its outputs is in the vault; without outputs, nothing that counts
    was left of the replaced files.
    """

    batch_id: uuid.UUID
    replaced: tuple[str, ...]
    outputs: tuple[str, ...]
    slices: tuple[int, ...] = ()

    def inputs_of(self, output: str) -> tuple[str, ...]:
        """What an output was made from; nothing of one of another batch."""
        return self.replaced if output in self.outputs else ()

    def encode(self) -> bytes:
        """The object's content."""
        return _encode(
            batch=str(self.batch_id),
            replaced=self.replaced,
            outputs=self.outputs,
            slices=self.slices,
        )

    @classmethod
    def decode(cls, raw: bytes, key: str) -> BatchRecord:
        """The record in an object. Raises `CorruptObject`."""
        with _decoding(key):
            content = json.loads(raw)
            return cls(
                uuid.UUID(content["batch"]),
                tuple(map(str, content["replaced"])),
                tuple(map(str, content["outputs"])),
                tuple(map(int, content["slices"])),
            )


def batch_key(owner: uuid.UUID, batch_id: uuid.UUID) -> str:
    """Where the record of a batch lies."""
    return f"_atlas/batches/{owner}/{batch_id}.json"


def check_batch(store: ObjectStore, owner: uuid.UUID, record: BatchRecord) -> None:
    """Raise `VerificationFailed` unless the record is in the vault as it was written."""
    key = batch_key(owner, record.batch_id)
    raw = store.get_bytes(key)
    if raw is None or _or_none(BatchRecord.decode)(raw, key) != record:
        raise VerificationFailed(
            f"{key} read back from the vault is not what was written",
            path=key,
            hint="nothing was replaced",
        )


def read_batches(
    store: ObjectStore, owner: uuid.UUID, only: Collection[uuid.UUID] | None = None
) -> list[BatchRecord]:
    """The records of all batches of an owner, or of those that have one among ``only``."""
    if only is None:
        keys = [info.key for info in store.list(f"_atlas/batches/{owner}")]
    else:
        keys = [batch_key(owner, one) for one in only]
    # one that cannot be read replaces nothing: it was never found to be whole
    records = _read(store, keys, _or_none(BatchRecord.decode))
    return [record for record in records if record is not None]


def erasures_folder(owner: uuid.UUID) -> str:
    """Where the records of forgotten ids lie."""
    return f"_atlas/erasures/{owner}"


def erasure_record(owner: uuid.UUID, video_ids: Iterable[str]) -> tuple[str, bytes]:
    """Key and content of the record that these ids are forgotten; the key depends on the ids alone."""
    digests = sorted(digest(owner, video_id).hex() for video_id in set(video_ids))
    name = hashlib.sha256("\n".join(digests).encode()).hexdigest()[:32]
    return f"{erasures_folder(owner)}/{name}.json", _encode(digests=digests)


def put_erasure(store: ObjectStore, key: str, content: bytes) -> None:
    """Create a record of forgotten ids, where it is not there whole. Raises `VerificationFailed`."""
    wanted = _digests(content, key)
    with contextlib.suppress(ObjectExists):
        store.put_bytes(key, content, overwrite=False)
    if _digests_there(store, key) != wanted:
        store.put_bytes(key, content)  # a half-written one
    if _digests_there(store, key) != wanted:
        raise VerificationFailed(
            f"{key} read back from the vault is not what was written",
            path=key,
            hint="nothing was deleted; forget again",
        )


def read_erasures(
    store: ObjectStore, owner: uuid.UUID, known: Collection[str]
) -> dict[str, tuple[bytes, ...]]:
    """The digests in records that are not ``known``, by the record's key."""
    keys = [info.key for info in store.list(erasures_folder(owner)) if info.key not in known]
    return dict(_read(store, keys, lambda raw, key: (key, _digests(raw, key))))


def condemn(store: ObjectStore, owner: uuid.UUID, keys: Sequence[str]) -> str:
    """Announce that these objects will be deleted; returns the announcement's key.

    Raises `VerificationFailed` where it is not in the vault as it was written.
    """
    key = f"{_condemned_folder(owner)}/{uuid.uuid4()}.json"
    content = _encode(keys=list(keys))
    store.put_bytes(key, content, overwrite=False)
    if store.get_bytes(key) != content:
        raise VerificationFailed(
            f"{key} read back from the vault is not what was written",
            path=key,
            hint="nothing was deleted",
        )
    return key


def read_condemned(store: ObjectStore, owner: uuid.UUID) -> dict[str, frozenset[str]]:
    """What was announced and may be deleted at any time, by the announcement's key."""
    keys = [info.key for info in store.list(_condemned_folder(owner))]
    # nobody deletes on account of one that was not found to be whole
    read = _or_none(_keys)
    return dict(_read(store, keys, lambda raw, key: (key, read(raw, key) or frozenset())))


def _condemned_folder(owner: uuid.UUID) -> str:
    return f"_atlas/condemned/{owner}"


def _digests_there(store: ObjectStore, key: str) -> tuple[bytes, ...] | None:
    raw = store.get_bytes(key)
    return None if raw is None else _or_none(_digests)(raw, key)


def _digests(raw: bytes, key: str) -> tuple[bytes, ...]:
    with _decoding(key):
        return tuple(bytes.fromhex(one) for one in json.loads(raw)["digests"])


def _keys(raw: bytes, key: str) -> frozenset[str]:
    with _decoding(key):
        return frozenset(map(str, json.loads(raw)["keys"]))


def _encode(**content: Any) -> bytes:
    at = datetime.now(UTC).isoformat(timespec="seconds")
    return json.dumps({"format": _FORMAT, "at": at, **content}).encode()


def _or_none(decode: Callable[[bytes, str], T]) -> Callable[[bytes, str], T | None]:
    def tolerant(raw: bytes, key: str) -> T | None:
        try:
            return decode(raw, key)
        except CorruptObject as error:
            log.error("vault_record_unreadable", key=key, error=str(error))
            return None

    return tolerant


@contextlib.contextmanager
def _decoding(key: str) -> Iterator[None]:
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptObject(f"{key} is not what Atlas writes there", path=key) from error


def _read(store: ObjectStore, keys: Sequence[str], decode: Callable[[bytes, str], T]) -> list[T]:
    """Every object that is there, decoded; one that vanished since it was listed is left out."""
    with ThreadPoolExecutor(_READS_AT_ONCE, thread_name_prefix="atlas-records") as pool:
        contents = list(pool.map(store.get_bytes, keys))
    return [decode(raw, key) for key, raw in zip(keys, contents, strict=True) if raw is not None]
