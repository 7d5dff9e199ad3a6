"""Asking the API with each key, by its cheapest call, whether it works."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import aiohttp

from atlas.config import ApiKey, get_settings
from atlas.keys.accounting.accounts import ALL, Accounts
from atlas.keys.accounting.fingerprints import identify
from atlas.keys.refusals import YouTubeAPIError
from atlas.keys.youtube import Action, judge
from atlas.repositories.keys import KeyLedger

__all__ = ["probe"]

#: One unit of the general bucket, and an answer of a few bytes.
_CALL = {"part": "id", "id": "jNQXAC9IVRw", "fields": "kind"}
_TIMEOUT = aiohttp.ClientTimeout(total=15)
#: Keys asked at once.
_AT_ONCE = 4


async def probe(keys: Sequence[ApiKey], accounts: Accounts) -> list[str]:
    """What the API answers to each key: ``ok``, an action of `Action`, or ``no answer``.

    What is learnt is written to the database, where there is one: a key that works is brought back, another
    rests or is disabled.
    """
    turns = asyncio.Semaphore(_AT_ONCE)
    async with aiohttp.ClientSession(timeout=_TIMEOUT, trust_env=True) as session:

        async def ask(key: ApiKey) -> str:
            async with turns:
                return await _ask(session, key, accounts)

        answers = await asyncio.gather(*map(ask, keys))
    if get_settings().database_url is not None:
        await _record(keys, answers, accounts)
    return answers


async def _ask(session: aiohttp.ClientSession, key: ApiKey, accounts: Accounts) -> str:
    url = f"{get_settings().youtube_api_url.rstrip('/')}/videos"
    # in a header, because addresses are logged by proxies
    headers = {"X-Goog-Api-Key": key.get_secret_value()}
    try:
        async with session.get(url, params=_CALL, headers=headers, allow_redirects=False) as answer:
            if answer.status < 300:
                return "ok"
            error = YouTubeAPIError.from_response(
                answer.status, await answer.content.read(65_536), answer.headers
            )
    except (aiohttp.ClientError, OSError):
        return "no answer"
    verdict = judge(error)
    if verdict.action is Action.REST:
        accounts.refuse(key, verdict.bucket or "general")
    elif verdict.action in (Action.DISABLE_KEY, Action.DISABLE_PROJECT):
        accounts.disable(key, whole_project=verdict.action is Action.DISABLE_PROJECT)
    return verdict.action.value.replace("_", " ")


async def _record(keys: Sequence[ApiKey], answers: Sequence[str], accounts: Accounts) -> None:
    from atlas.db import db

    rests, _ = accounts.unshare()
    good = [identify(key) for key, said in zip(keys, answers, strict=True) if said == "ok"]
    async with db.transaction() as session:
        ledger = KeyLedger(session)
        await ledger.lift(
            [name for one in good for name in (one.key_account, one.project_account)],
            [ALL, "general"],
        )
        if rests:
            await ledger.rest(rests)
