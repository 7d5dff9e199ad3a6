"""Who owns a vault, by what the vault itself records."""

from __future__ import annotations

import hashlib
import json
import uuid

from atlas.errors import CorruptObject
from atlas.types import ObjectStore

#: The mark of the one database that may write here.
OWNER_KEY = "_atlas/owner.json"
#: Where each database that ever archived here has its epoch.
EPOCHS = "_atlas/epochs"
#: What to do about it.
WRONG_VAULT_HINT = (
    "give this database a VAULT_PREFIX of its own; or, if it is that one, restored from a backup or new "
    "after a loss, run `atlas vault adopt`"
)


def digest(owner: uuid.UUID, video_id: str) -> bytes:
    """The hash by which a forgotten id is known."""
    return hashlib.sha256(f"{owner}:{video_id}".encode()).digest()


def owner_of(store: ObjectStore) -> uuid.UUID | None:
    """Whose the prefix is, as it is written there."""
    raw = store.get_bytes(OWNER_KEY)
    if raw is None:
        return None
    try:
        return uuid.UUID(json.loads(raw)["owner"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptObject(f"{OWNER_KEY} names no owner", path=OWNER_KEY) from error


def owners_with_epoch(store: ObjectStore) -> frozenset[uuid.UUID]:
    """The owner mark of every database that has an epoch here; one listing."""
    found = set()
    for info in store.list(EPOCHS):
        try:
            found.add(uuid.UUID(info.key.rsplit("/", 1)[-1].removesuffix(".json")))
        except ValueError as error:
            raise CorruptObject(f"{info.key} names no owner", path=info.key) from error
    return frozenset(found)


def owners_of(store: ObjectStore) -> frozenset[uuid.UUID]:
    """Every database that the vault is marked with."""
    claimed = owner_of(store)
    return owners_with_epoch(store) | ({claimed} if claimed is not None else frozenset())
