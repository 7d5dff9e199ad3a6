"""API keys and their quota as the settings give them."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeVar

from pydantic import SecretStr

from atlas.errors import InvalidInput

#: What no key holds, but text with several keys, or a broken list, does.
_SEPARATORS = re.compile(r"""[\s,;"'\[\]{}]""")
_FORM = 'takes a JSON list of keys or of {"key": ..., "project": ...}'


#: Pools of API keys, each for one kind of agent.
POOLS = ("hunting", "tracking", "archeology")
T = TypeVar("T")


class ApiKey(SecretStr):
    """An API key; ``project`` names the Google Cloud project whose quota it draws on, if known.

    Keys of one project share one quota; a key without a project is its own.
    """

    project: str | None

    def __init__(self, secret_value: str, project: str | None = None) -> None:
        super().__init__(secret_value)
        self.project = project


@dataclass(frozen=True, slots=True)
class QuotaBucket:
    """A bucket of a project's daily quota: ``limit`` units a Pacific day, ``cost`` of them a request."""

    limit: int
    cost: int = 1

    def __post_init__(self) -> None:
        for name in ("limit", "cost"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise InvalidInput(
                    f"{name} of a quota bucket must be a whole number of at least 1, got {value!r}",
                    field=name,
                    value=value,
                )


#: YouTube's defaults since June 2026.
DEFAULT_QUOTA = {
    "general": QuotaBucket(10_000),
    "search": QuotaBucket(100),
    "batch_stats": QuotaBucket(10_000),
    "upload": QuotaBucket(100),
}


def parse_keys(value: SecretStr | None) -> tuple[ApiKey, ...]:
    """The keys of ``YOUTUBE_API_KEY_POOL_JSON``, each once. Raises ValueError, which shows none."""
    if value is None:
        return ()
    text = value.get_secret_value().strip()
    try:
        parsed = json.loads(text)
    except ValueError:
        if text[:1] in "[{":
            raise ValueError("is not valid JSON") from None
        parsed = text  # bare text is one key
    if isinstance(parsed, dict):
        raise ValueError(_FORM)
    if not isinstance(parsed, list):
        parsed = [parsed] if isinstance(parsed, str) else [text]
    keys: dict[str, ApiKey] = {}
    for item in parsed:
        key, project = (
            (item.get("key"), item.get("project")) if isinstance(item, dict) else (item, None)
        )
        if not isinstance(key, str) or not (project is None or isinstance(project, str)):
            raise ValueError(_FORM)
        if key.strip():
            add_key(keys, key.strip(), (project or "").strip() or None)
    return tuple(keys.values())


def add_key(keys: dict[str, ApiKey], key: str, project: str | None) -> None:
    """Add a key that is not there yet. Raises ValueError for what cannot be one, showing four characters."""
    if _SEPARATORS.search(key):
        raise ValueError('holds several keys in one text; takes a JSON list: ["key1", "key2"]')
    known = keys.setdefault(key, ApiKey(key, project))
    if project is not None and known.project not in (None, project):
        raise ValueError(f"the key that ends in {key[-4:]!r} is named under two projects")
    if known.project is None and project is not None:
        keys[key] = ApiKey(key, project)


@functools.lru_cache(maxsize=8)
def parse_quota(text: str | None) -> Mapping[str, QuotaBucket]:
    """The default buckets, changed by ``YOUTUBE_QUOTA_JSON``. Raises ValueError."""
    try:
        given = json.loads(text) if text else {}
    except ValueError:
        raise ValueError("is not valid JSON") from None
    form = 'takes a JSON object such as {"search": {"limit": 100, "cost": 1}}'
    if not isinstance(given, dict):
        raise ValueError(form)
    found = dict(DEFAULT_QUOTA)
    for name, value in given.items():
        value = value if isinstance(value, dict) else {"limit": value}
        if not re.fullmatch(r"[a-z][a-z0-9_]{0,31}", name) or not value.keys() <= {"limit", "cost"}:
            raise ValueError(f"{form}; names are of a-z, 0-9 and _")
        base = found.get(name)
        limit = value.get("limit", base.limit if base else 0)
        found[name] = QuotaBucket(limit, value.get("cost", base.cost if base else 1))
    return MappingProxyType(found)


def split_keys(keys: Sequence[T], archeology: int, tracking: int) -> dict[str, Sequence[T]]:
    """The keys of each pool: the last ``archeology``, the ``tracking`` before them, hunting the rest.

    With no more than ``archeology + tracking`` keys every pool gets all of them.
    """
    rest = len(keys) - archeology - tracking
    if rest <= 0:
        return dict.fromkeys(POOLS, keys)
    return {
        "hunting": keys[:rest],
        "tracking": keys[rest : rest + tracking],
        "archeology": keys[rest + tracking :],
    }
