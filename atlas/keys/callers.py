"""Which bucket an agent's unlabelled requests draw on, learnt from answers and refusals.

Agents of the platform name no bucket. An answer says by its ``kind`` what was asked, a refusal by its limit's
name; while all that is known of a function of an agent is searching, its requests count as searches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import datetime
from functools import lru_cache, partial
from types import CodeType
from typing import Any

from atlas.keys.accounting.accounts import Accounts

__all__ = ["Callers"]

#: The bucket that answers of a kind were drawn from; others are ``general``.
_KINDS = {"youtube#searchListResponse": "search"}
_LEARNT = "search"
_METHODS = frozenset(
    {
        "activities",
        "batchgetstats",
        "captions",
        "channels",
        "comments",
        "commentthreads",
        "playlistitems",
        "playlists",
        "search",
        "videocategories",
        "videos",
    }
)
#: Most functions remembered; a program has few.
_MOST = 1_000


def _methods(names: Iterable[object]) -> frozenset[str]:
    """The API's methods among names, texts and addresses."""
    words = (
        text.rstrip("/").rpartition("/")[2].partition("?")[0].strip("_").lower()
        for text in names
        if isinstance(text, str) and len(text) < 500
    )
    return _METHODS.intersection(words)


@lru_cache(maxsize=1_000)
def _named_in(code: CodeType) -> frozenset[str]:
    return _methods((*code.co_names, *code.co_consts))


class Callers:
    """What one executor learnt of the functions that it was given."""

    def __init__(self, agent: str) -> None:
        self._agent = agent
        self._kinds: dict[str, set[str]] = {}

    def name(self, function: Callable[..., Any]) -> str | None:
        """The name of a function in rests; None if it shows no method of the API, and so is not learnt of.

        One helper often serves several methods: what its code, closure and arguments name counts.
        """
        names: list[object] = []
        while isinstance(function, partial):
            names += [*function.args, *function.keywords.values()]
            function = function.func
        code = getattr(function, "__code__", None)
        if code is None:
            return None
        for cell in getattr(function, "__closure__", None) or ():
            with suppress(ValueError):  # not assigned yet
                names.append(cell.cell_contents)
        methods = _named_in(code) | _methods(names)
        if not methods:
            return None
        place = f"{getattr(function, '__module__', '')}.{function.__qualname__}"
        return f"caller:{self._agent}:{place}:{','.join(sorted(methods))}"

    def bucket(self, name: str, accounts: Accounts) -> str:
        """The bucket that requests of the function draw on, as far as is known."""
        kinds = self._kinds.get(name)
        if kinds is None:
            return _LEARNT if accounts.found(name, _LEARNT) else "general"
        return _LEARNT if len(kinds) == 1 and _LEARNT in kinds else "general"

    def answered(self, name: str, answer: object) -> str | None:
        """Learn from an answer; the bucket that it was drawn from, if it says so."""
        kind = answer.get("kind") if isinstance(answer, dict) else None
        if not isinstance(kind, str) or not kind.startswith("youtube#"):
            return None
        bucket = _KINDS.get(kind, "general")
        kinds = self._kinds.get(name)
        if kinds is None:
            if len(self._kinds) >= _MOST:
                self._kinds.clear()
            kinds = self._kinds[name] = set()
        kinds.add(bucket)
        return bucket

    def refused(
        self, name: str, bucket: str, accounts: Accounts, until: datetime, *, known: bool
    ) -> None:
        """A refusal named ``bucket``. Remembered, for other processes too, until it comes back.

        Only where nothing speaks against it: answers of that kind alone, or a second refusal, of a bucket
        that was ``known`` to be spent.
        """
        kinds = self._kinds.get(name)
        if bucket == _LEARNT and (kinds == {bucket} or (kinds is None and known)):
            accounts.put_off(name, bucket, until, "draws on it")
