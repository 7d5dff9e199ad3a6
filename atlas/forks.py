"""What a forked child must not take over from its parent: threads that did not come along, locks that they
held, connections that are the parent's.

gunicorn with ``--preload``, multiprocessing and Celery fork programs that have used Atlas already. Whoever
owns such a thing says here how a child makes its own; processes that are spawned begin anew anyway.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

_renewals: list[tuple[weakref.ref[Any], Callable[[Any], object]]] = []


def renew_in_child(owner: T, renew: Callable[[T], object]) -> None:
    """Have ``renew(owner)`` called in every child forked from now on, for as long as ``owner`` lives."""
    _renewals[:] = [one for one in _renewals if one[0]() is not None]
    _renewals.append((weakref.ref(owner), renew))


def _renew() -> None:
    for reference, renew in _renewals:
        owner = reference()
        if owner is not None:
            renew(owner)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)
