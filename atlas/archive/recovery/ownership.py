"""One database, one prefix: whose a vault is, and who is refused before anything is written."""

from __future__ import annotations

import json
import uuid
from collections.abc import Collection

from atlas.errors import WrongVault
from atlas.repositories.ledger.files import Control
from atlas.types import ObjectStore
from atlas.vault.marks import read_mark
from atlas.vault.owners import OWNER_KEY, WRONG_VAULT_HINT, owner_of, owners_with_epoch


def check_owner(store: ObjectStore, control: Control) -> bool:
    """Raise `WrongVault` where another database has this prefix; returns whether it is marked as ours.

    A database that never ran may come to an empty vault only. One that ran may stay where it has an epoch:
    prefixes that were shared before there was this rule.
    """
    claimed = owner_of(store)
    if claimed is not None and claimed == control.owner:
        return True
    owners = owners_with_epoch(store)
    others = (owners | ({claimed} if claimed is not None else set())) - {control.owner}
    if others and not (control.nonce is not None and control.owner in owners):
        raise _refused(store, others)
    return False


def claim_prefix(store: ObjectStore, owner: uuid.UUID) -> None:
    """Write whose the prefix is, where no other database has an epoch.

    Raises `WrongVault` if another database was quicker.
    """
    if owners_with_epoch(store) - {owner}:
        return
    store.compare_and_swap(OWNER_KEY, None, json.dumps({"owner": str(owner)}).encode())
    claimed = owner_of(store)
    if claimed is not None and claimed != owner:
        raise _refused(store, {claimed})


#: Why appended metrics stay where they are.
SHARED_HINT = (
    "several databases share this vault, and appended metrics are everybody's: give each a prefix of its own "
    "with `atlas vault move`"
)


def is_sole_owner(store: ObjectStore, owner: uuid.UUID | None) -> bool:
    """Whether no other database has an epoch in this vault."""
    return not owners_with_epoch(store) - {owner}


def _refused(store: ObjectStore, others: Collection[uuid.UUID]) -> WrongVault:
    named = []
    for owner in sorted(others):
        mark, _ = read_mark(store, owner)
        named.append(f"{owner} ({mark.side})" if mark else str(owner))
    return WrongVault(
        f"{store.identity} belongs to another database: {'; '.join(named)}",
        hint=WRONG_VAULT_HINT,
    )
