"""Names of keys and projects that may be stored and shown: fingerprints and last characters, never a key."""

from __future__ import annotations

import functools
import hashlib
import platform
from typing import NamedTuple

from atlas.config import ApiKey

__all__ = ["Identity", "fingerprint", "host_account", "identify", "mask"]

#: A key shorter than this is hidden whole: its last characters would give too much of it away.
_SHOW_FROM = 16
#: Separates these fingerprints from others of the same text; API keys are too long to be guessed from one.
_PURPOSE = b"atlas.keys.fingerprint.1"


class Identity(NamedTuple):
    """``project`` counts quota; ``key_account`` and ``project_account`` are names of rests."""

    project: str
    key_account: str
    project_account: str


def fingerprint(text: str) -> str:
    """128 bits of keyed BLAKE2b, in hexadecimal."""
    return hashlib.blake2b(text.encode(), digest_size=16, key=_PURPOSE).hexdigest()


@functools.lru_cache(maxsize=4096)
def _identify(text: str, project: str | None) -> Identity:
    own = f"key:{fingerprint(text)}"
    # a key of no known project stands for itself
    return Identity(project or own, own, f"project:{project or own}")


def identify(key: ApiKey) -> Identity:
    """The names that ``key`` goes by."""
    return _identify(key.get_secret_value(), key.project)


@functools.cache
def host_account() -> str:
    """The name of this machine's address in rests."""
    return f"host:{fingerprint(platform.node())}"


def mask(key: str) -> str:
    """A form of a key that may be shown: its last four characters, or none of a short one."""
    return f"…{key[-4:]}" if len(key) >= _SHOW_FROM else "…"
