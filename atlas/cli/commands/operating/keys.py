"""``atlas keys``: what is known of the API keys, whether they work, and waiting until one does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import typer

from atlas.cli.output import answer, err, moment, number, out, run, table
from atlas.errors import ConfigurationError, Unavailable

if TYPE_CHECKING:
    from atlas.keys import Accounts, KeyRing

app = typer.Typer(help="API keys: what is known of them, whether they work, waiting for one.")

#: Seconds between two looks at the database while waiting.
_LOOK_AGAIN = 30.0
#: Seconds between attempts to reach a database that is away while waiting.
_TRY_AGAIN = 2.0


class Pool(StrEnum):
    """The pools of keys, as an option."""

    HUNTING = "hunting"
    TRACKING = "tracking"
    ARCHEOLOGY = "archeology"


_JSON = typer.Option(False, "--json", help="One JSON document for programs.")


@app.callback(invoke_without_command=True)
def keys(context: typer.Context, json: bool = _JSON) -> None:
    """List the keys of each pool; as `atlas keys list`."""
    if context.invoked_subcommand is None:
        list_keys(json)


@app.command("list")
def list_keys(json: bool = _JSON) -> None:
    """List the keys of each pool: state, units spent today of each bucket, and when they come back."""
    run(_list(json))


async def _list(as_json: bool) -> None:
    async with _known() as (accounts, shared):
        rings = {str(pool): _ring(pool, accounts) for pool in Pool}
        found = {
            pool: [asdict(one) for one in ring.status()] for pool, ring in rings.items() if ring
        }
    rows = []
    for pool, keys in found.items():
        for key in keys:
            rests = [one["resting_until"] for one in key["buckets"]]
            ends = [key["slow_until"], key["usable_at"], *rests]
            spent = ", ".join(
                f"{one['bucket']} {number(one['spent'])}/{number(one['limit'])}"
                for one in key["buckets"]
            )
            back = moment(max((end for end in ends if end), default=None))
            rows.append((pool, key["key"], key["project"], key["state"], spent, back))

    def show() -> None:
        columns = ("pool", "key", "project", "state", "spent/limit today", "back (UTC)")
        out.print(table("API keys", columns, rows))
        for pool in [pool for pool, ring in rings.items() if ring is None]:
            out.print(f"{pool} has no key: KEY_POOL_{pool.upper()}_SIZE is 0")
        if not shared:
            out.print("without DATABASE_URL nothing is known of what other processes spent")

    answer(found, as_json, show)


@app.command("test")
def ask_api(json: bool = _JSON) -> None:
    """Ask the API with every key, which costs one unit each; bring back those that work again.

    Exit 1 if a key is refused for good.
    """
    results = run(_test())
    answer(
        results,
        json,
        lambda: out.print(
            table(
                "API keys, asked now",
                ("key", "project", "answer"),
                [(one["key"], one["project"], one["answer"]) for one in results],
            )
        ),
    )
    if any(one["answer"].endswith("disabled") for one in results):
        raise typer.Exit(1)


async def _test() -> list[dict[str, Any]]:
    from atlas.config import get_settings
    from atlas.keys.accounting.fingerprints import mask
    from atlas.keys.probe import probe

    async with _known() as (accounts, _):
        keys = get_settings().youtube_api_keys
        answers = await probe(keys, accounts)
        return [
            {"key": mask(key.get_secret_value()), "project": key.project, "answer": said}
            for key, said in zip(keys, answers, strict=True)
        ]


@app.command()
def wait(
    pool: Pool = typer.Option(..., "--pool", case_sensitive=False, help="Which pool's keys."),
    bucket: str = typer.Option("general", "--bucket", help="Which bucket of quota."),
    timeout: float = typer.Option(None, "--timeout", min=0, help="Give up after so many seconds."),
) -> None:
    """Wait until a key of the pool may be used; for entry points and ExecStartPre.

    Exit 0 then, 1 when the time is over, 2 when there is no key or every one is disabled.
    """
    run(_wait(pool, bucket, timeout))


async def _wait(pool: Pool, bucket: str, timeout: float | None) -> None:
    loop = asyncio.get_running_loop()
    end = None if timeout is None else loop.time() + timeout
    announced = False
    while True:
        try:
            async with _known() as (accounts, _):
                from atlas.keys import KeyRing

                ring = KeyRing(pool, accounts=accounts)
                accounts.units(bucket, 1)
                retry_at = ring.retry_at_for(bucket)
                if retry_at is None:
                    return
                reason = ring.exhausted(bucket)
                pause = min(_LOOK_AGAIN, (retry_at - accounts.now()).total_seconds())
                if isinstance(reason, ConfigurationError):
                    raise reason
        except Unavailable as error:
            reason, pause = error, _TRY_AGAIN
        if not announced:
            err.print(f"waiting: {reason}", soft_wrap=True)
            announced = True
        if end is not None and loop.time() >= end:
            raise reason
        await asyncio.sleep(max(0.1, min(pause, pause if end is None else end - loop.time())))


@asynccontextmanager
async def _known() -> AsyncIterator[tuple[Accounts, bool]]:
    """What is known of the keys, and whether other processes had a part in it.

    Raises `ConfigurationError` where no key is configured.
    """
    from atlas.config import get_settings
    from atlas.db import db
    from atlas.keys import Accounts
    from atlas.repositories.keys import KeyLedger

    settings = get_settings()
    if not settings.youtube_api_keys:
        raise ConfigurationError(
            "no YouTube API key is configured", hint="set YOUTUBE_API_KEY_POOL_JSON"
        )
    accounts = Accounts()
    if settings.database_url is None:
        yield accounts, False
        return
    try:
        async with db.transaction(read_only=True) as session:
            accounts.learn(await KeyLedger(session).snapshot())
        yield accounts, True
    finally:
        await db.close()


def _ring(pool: Pool, accounts: Accounts) -> KeyRing | None:
    from atlas.keys import KeyRing

    try:
        return KeyRing(pool, accounts=accounts)
    except ConfigurationError:
        return None  # its size is 0
