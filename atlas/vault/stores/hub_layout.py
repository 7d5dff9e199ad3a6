"""What a dataset repository asks for beside the vault's own layout: small folders, and a card.

The Hub refuses a commit by which a folder has more than 10,000 entries, and a day may have more videos than
that. Metadata therefore lies one folder deeper there than its key says.
"""

from __future__ import annotations

import re

from atlas.logging import get_logger
from atlas.vault.stores.card import TEXT, tables

log = get_logger(__name__)

_METADATA = re.compile(r"(metadata/\d{4}-\d\d-\d\d)/([A-Za-z0-9_-]{1,64})\.json")
_SHARDED = re.compile(r"(metadata/\d{4}-\d\d-\d\d)/[A-Za-z0-9_-]{1,2}/([A-Za-z0-9_-]{1,64}\.json)")


def sharded(key: str) -> str:
    """Where an object is written: ``metadata/<date>/<first two>/<id>.json``, everything else by its key."""
    match = _METADATA.fullmatch(key)
    return f"{match[1]}/{match[2][:2]}/{match[2]}.json" if match else key


def logical(path: str) -> str:
    """The key of an object that lies at ``path``."""
    match = _SHARDED.fullmatch(path)
    if match is None:
        return path
    key = f"{match[1]}/{match[2]}"
    return key if sharded(key) == path else path


def candidates(key: str) -> list[str]:
    """Where an object may lie, first where it is written: metadata lay flat once."""
    return list(dict.fromkeys([sharded(key), key]))


def completed_card(text: str | None, prefix: str) -> str | None:
    """The dataset card with the tables under ``prefix`` named in its head; None if it names them already.

    Whatever else a person has written there stays. A head that cannot be read is left alone.
    """
    import yaml  # type: ignore[import-untyped]  # ships no types
    from huggingface_hub import DatasetCard

    ours = [{"config_name": name, "data_files": files} for name, files in tables(prefix).items()]
    try:
        card = DatasetCard(f"---\nconfigs: []\n---\n{TEXT}" if text is None else text)
        there = card.data.get("configs") or []
        named = {config["config_name"] for config in there}
        missing = [config for config in ours if config["config_name"] not in named]
        if not missing:
            return None
        card.data["configs"] = [*there, *missing]
        return str(card)
    except (yaml.YAMLError, ValueError, TypeError, KeyError) as error:
        log.warning("dataset_card_unreadable", error=type(error).__name__)
        return None
