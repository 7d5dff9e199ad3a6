"""Asking the API with each key, by its cheapest call, whether it works."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
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
_BUCKET = "general"
_WORDS = {
    Action.REST: "spent",
    Action.SLOW_DOWN: "too fast",
    Action.DISABLE_KEY: "disabled",
    Action.DISABLE_PROJECT: "project disabled",
    Action.BLOCKED: "address blocked",
    Action.RETRY: "service failed",
    Action.FAIL: "request refused",
}
#: What the API counts a unit for, as far as is known.
_COUNTED = ("ok", "no answer", _WORDS[Action.RETRY], _WORDS[Action.FAIL])


async def probe(keys: Sequence[ApiKey], accounts: Accounts) -> list[str]:
    """What the API answers to each key: ``ok``, ``no answer``, ``service failed``, or what is wrong with it.

    What is learnt is written to the database, where there is one: a key that works is brought back, another
    rests or is disabled, and the units are counted.
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
        accounts.refuse(key, verdict.bucket or _BUCKET)
    elif verdict.action in (Action.DISABLE_KEY, Action.DISABLE_PROJECT):
        accounts.disable(key, whole_project=verdict.action is Action.DISABLE_PROJECT)
    return _WORDS[verdict.action]


async def _record(keys: Sequence[ApiKey], answers: Sequence[str], accounts: Accounts) -> None:
    from atlas.db import db

    rests, refusals = accounts.unshare()
    asked = [(identify(key), said) for key, said in zip(keys, answers, strict=True)]
    good = [one for one, said in asked if said == "ok"]
    counted = Counter(one.project for one, said in asked if said in _COUNTED)
    day, limit, cost = accounts.today(), accounts.buckets[_BUCKET].limit, accounts.units(_BUCKET, 1)
    async with db.autocommit() as session:
        ledger = KeyLedger(session)
        names = [name for one in good for name in (one.key_account, one.project_account)]
        await ledger.lift(names, [ALL, _BUCKET])
        await ledger.reopen([one.project for one in good], _BUCKET, day)
        if rests:
            await ledger.rest(rests)
        holder = uuid.uuid4().hex[:16]
        for project, calls in sorted(counted.items()):
            total = calls * cost
            await ledger.settle(
                project,
                _BUCKET,
                day,
                holder=holder,
                total=total,
                settled=0,
                in_flight=0,
                need=0,
                limit=limit,
            )
        for project, bucket in refusals:
            await ledger.refused(project, bucket, day, accounts.buckets[bucket].limit)
