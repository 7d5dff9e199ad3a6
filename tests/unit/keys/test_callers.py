"""Which unlabelled requests are known for searches, and which are left alone."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from functools import partial

from atlas.keys import Accounts
from atlas.keys.callers import Callers

NOON = datetime(2026, 7, 1, 19, tzinfo=UTC)
FOUND = {"kind": "youtube#searchListResponse"}
LISTED = {"kind": "youtube#videoListResponse"}


def helper(method: str) -> Callable[[str], Awaitable[str]]:
    """One function for every method, as many agents have."""

    async def request(key: str) -> str:
        return method

    return request


async def opaque(key: str) -> None:
    """Shows nothing of what it asks."""


async def general(client: object, method: str, key: str) -> None:
    """Takes the method as an argument."""


def test_one_helper_that_serves_several_methods_is_told_apart_by_what_it_was_told() -> None:
    callers = Callers("hunter")
    search, videos = callers.name(helper("search")), callers.name(helper("videos"))
    assert search is not None and videos is not None and search != videos
    assert callers.name(partial(general, None, "search")) != callers.name(
        partial(general, None, "videos")
    )
    assert callers.name(opaque) is None
    accounts = Accounts(lambda: NOON)
    callers.answered(search, FOUND)
    assert callers.bucket(search, accounts) == "search"
    assert callers.bucket(videos, accounts) == "general"
    callers.answered(search, LISTED)
    assert callers.bucket(search, accounts) == "general"


def test_a_refusal_is_remembered_only_where_nothing_speaks_against_it() -> None:
    accounts = Accounts(lambda: NOON)
    until = NOON + timedelta(hours=3)
    name = str(Callers("hunter").name(helper("search")))
    callers = Callers("hunter")
    callers.refused(name, "search", accounts, until, known=False)
    assert callers.bucket(name, accounts) == "general"
    callers.refused(name, "search", accounts, until, known=True)
    assert Callers("hunter").bucket(name, accounts) == "search"
    mixed = Callers("hunter")
    mixed.answered(name, LISTED)
    assert mixed.bucket(name, accounts) == "general"
