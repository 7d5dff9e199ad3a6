"""YouTube ids as 64-bit numbers, mixed so that they lie evenly: an id's *position* in the ring.

Arrays of positions are ``uint64``. PostgreSQL's ``bigint`` holds them less 2^63, which keeps their order.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Positions: TypeAlias = npt.NDArray[np.uint64]

#: Characters of a YouTube id. The last one carries four bits, the others six.
ID_LENGTH = 11
LAST_POSITION = 2**64 - 1

_ALPHABET = np.frombuffer(
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_", np.uint8
)
#: The last character's two bits that are no part of the number are zero.
_CANONICAL = re.compile(r"[A-Za-z0-9_-]{10}[AEIMQUYcgkosw048]")
_NO_DIGIT = 255
_DIGIT = np.full(256, _NO_DIGIT, np.uint8)
_DIGIT[_ALPHABET] = np.arange(64, dtype=np.uint8)

_SHIFT = np.uint64(33)
# the constants of MurmurHash3's finaliser, and their inverses modulo 2^64
_FACTORS = (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53)
_FORWARD = tuple(np.uint64(factor) for factor in _FACTORS)
_BACKWARD = tuple(np.uint64(pow(factor, -1, 2**64)) for factor in reversed(_FACTORS))


def is_canonical(video_id: str) -> bool:
    """Whether the id has the shape of YouTube's own, so that it has a position."""
    return _CANONICAL.fullmatch(video_id) is not None


def positions_of(video_ids: Sequence[str]) -> Positions:
    """The positions of canonical ids, in their order."""
    if not len(video_ids):
        return np.empty(0, np.uint64)
    text = np.frombuffer("".join(video_ids).encode("ascii"), np.uint8)
    digits = _DIGIT[text.reshape(len(video_ids), ID_LENGTH)].astype(np.uint64)
    numbers = digits[:, ID_LENGTH - 1] >> np.uint64(2)
    for place in range(ID_LENGTH - 1):
        numbers |= digits[:, place] << np.uint64(58 - 6 * place)
    return _mixed(numbers, _FORWARD)


def ids_of(positions: Positions) -> list[str]:
    """The ids at these positions, in their order."""
    numbers = _mixed(positions, _BACKWARD)
    digits = np.empty((len(numbers), ID_LENGTH), np.uint8)
    for place in range(ID_LENGTH - 1):
        digits[:, place] = (numbers >> np.uint64(58 - 6 * place)) & np.uint64(63)
    digits[:, ID_LENGTH - 1] = (numbers << np.uint64(2)) & np.uint64(63)
    text = _ALPHABET[digits].tobytes().decode("ascii")
    return [text[start : start + ID_LENGTH] for start in range(0, len(text), ID_LENGTH)]


def stored(position: int) -> int:
    """A position as PostgreSQL has it."""
    return int(position) - 2**63


def position(stored_position: int) -> int:
    """The position of what PostgreSQL has."""
    return stored_position + 2**63


def _mixed(numbers: Positions, factors: tuple[np.uint64, ...]) -> Positions:
    mixed = numbers ^ (numbers >> _SHIFT)
    for factor in factors:
        mixed = mixed * factor
        mixed = mixed ^ (mixed >> _SHIFT)
    return mixed
