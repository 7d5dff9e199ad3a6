"""One request on its way through keys, waits and attempts."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Generic, NoReturn, TypeVar

from atlas import retry
from atlas.config import ApiKey, get_settings
from atlas.errors import AtlasError, ConfigurationError, Unavailable
from atlas.keys.accounting.blocks import Block
from atlas.keys.accounting.fingerprints import identify, mask
from atlas.keys.youtube import Action, Verdict
from atlas.logging import get_logger

if TYPE_CHECKING:
    from atlas.keys.executor import HydraExecutor

__all__ = ["Call", "GivenUp", "NoKeyLeft"]

T = TypeVar("T")
#: Seconds that everything rests after the address was blocked, where the answer does not say.
BLOCKED_SECONDS = 600.0
#: Seconds between looks at what others hold or probe.
LOOK_AGAIN = 0.25

log = get_logger(__name__)


def track(error: AtlasError, facts: Mapping[str, str]) -> None:
    """Track an error whose text is Atlas's own: that of the request may contain the key."""
    from atlas.notifications.jobs import note  # imports SQLAlchemy, which requests need not

    note(error, "executor", **facts)


class NoKeyLeft(Exception):
    """No key may be used for the bucket."""


class GivenUp(Exception):
    """The attempts or the seconds to wait are used up."""


class Call(Generic[T]):
    """State of one request; `run` makes it."""

    def __init__(
        self,
        executor: HydraExecutor,
        request: Callable[[str], Awaitable[T]],
        judge: Callable[[Exception], Verdict],
        bucket: str,
        cost: int,
    ) -> None:
        self.executor = executor
        self.ring = executor.key_ring
        self.accounts = self.ring.accounts
        self.request = request
        self.judge = judge
        self.units = self.accounts.units(bucket, cost)
        self.bucket = bucket
        self.cost = cost
        #: The caller's name where the bucket was not named, and so may be learnt.
        self.caller = executor.callers.name(request) if bucket == "general" else None
        self.failures = 0
        self.left = get_settings().hydra_max_wait_seconds
        self.probing = False
        #: Projects whose last units are held by others, and those that refused this very request.
        self.full: set[str] = set()
        self.refused: set[str] = set()
        #: The bucket that the last refusal named.
        self.named: str | None = None

    async def run(self) -> T:
        """Make the request. Raises `NoKeyLeft`, `GivenUp`, or an error that is about the request."""
        sharing = self.accounts.sharing
        if sharing is not None and not sharing.is_fresh():
            sharing.start()
            await sharing.refresh()
        while True:
            key, block = await self._turn()
            self.accounts.use(key)
            spent = True
            try:
                result = await self.request(key.get_secret_value())
                spent = self._answered(block, result)
                return result
            except Exception as error:
                verdict = self.judge(error)
                spent = verdict.action in (Action.FAIL, Action.RETRY)
                if verdict.action is Action.FAIL:
                    self._reached()
                    raise
                kind = type(error).__name__
            finally:
                self.accounts.blocks.give_back(block, self.units, spent=spent)
            await self._take(verdict, key, kind)

    def _answered(self, block: Block, result: T) -> bool:
        """Learn from an answer. False: its units were drawn from another bucket than was taken from."""
        self._reached()
        if self.caller is None:
            return True
        drawn = self.executor.callers.answered(self.caller, result)
        if drawn is None or drawn == self.bucket:
            return True
        self.accounts.blocks.charge(block.project, drawn, self.accounts.units(drawn, self.cost))
        return False

    def _reached(self) -> None:
        """The service answered, be it with an error."""
        self.accounts.breakers.succeeded(self.bucket)
        if self.accounts.breakers.unshared:
            self.accounts.wake()

    async def _turn(self) -> tuple[ApiKey, Block]:
        """Wait until the request may be made, and take the key and the units for it."""
        accounts = self.accounts
        while True:
            if self.caller is not None:
                self.bucket = self.executor.callers.bucket(self.caller, accounts)
            if accounts.breakers.is_open(self.bucket) and not self.probing:
                await self._await_service()
            key = self._choose()
            if key is None:
                await self._wait(LOOK_AGAIN)
                continue
            if (wait := accounts.seconds_to_wait(key)) > 0:
                await self._wait(wait * random.uniform(1.0, 1.1))  # not all at once
                continue
            pace = accounts.pace(key)
            if pace.rate is not None:
                await self._await_pace(pace.acquire())
                if accounts.seconds_to_wait(key) > 0 or not accounts.is_usable(key, self.bucket):
                    continue
            block = await self._take_units(key)
            if block is not None:
                pace.note()
                return key, block

    def _choose(self) -> ApiKey | None:
        """A key; None if others hold the last units of every project that is left."""
        besides = self.refused | self.full
        key = (
            self.ring.next_best(self.bucket, besides) if besides else self.ring.choose(self.bucket)
        )
        if key is None and self.full:
            self.full.clear()
            if self.ring.next_best(self.bucket, self.refused) is not None:
                return None
        if key is None:
            self.bucket = self.named or self.bucket
            raise NoKeyLeft
        return key

    async def _take_units(self, key: ApiKey) -> Block | None:
        blocks, project = self.accounts.blocks, identify(key).project
        block = blocks.take(project, self.bucket, self.units)
        if block is None:
            block = await blocks.wait(project, self.bucket, self.units)
        if block is None:
            self.full.add(project)
        return block

    async def _await_service(self) -> None:
        """Wait while the endpoint's circuit is open; return when it is closed, or this call is the probe."""
        breakers = self.accounts.breakers
        while breakers.is_open(self.bucket):
            if (seconds := breakers.seconds(self.bucket)) > 0:
                await self._wait(min(seconds, 1.0) * random.uniform(1.0, 1.2))
            elif await self._claim_probe():
                self.probing = True
                return
            else:
                await self._wait(1.0)

    async def _claim_probe(self) -> bool:
        if not self.accounts.breakers.claim_probe(self.bucket):
            return False
        sharing = self.accounts.sharing
        return sharing is None or await sharing.claim_probe(self.bucket)

    async def _await_pace(self, turn: Awaitable[None]) -> None:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        try:
            await asyncio.wait_for(turn, max(self.left, 0.001))
        except TimeoutError:
            self._give_up()
        self.left -= loop.time() - begun

    async def _wait(self, seconds: float) -> None:
        """Wait without using up an attempt."""
        if seconds > self.left:
            self._give_up()
        self.left -= seconds
        await retry.pause(seconds)

    def _give_up(self) -> NoReturn:
        raise GivenUp from None

    async def _take(self, verdict: Verdict, key: ApiKey, kind: str) -> None:
        """Do what an error asks for, and wait where the request is to be repeated."""
        accounts, action = self.accounts, verdict.action
        probing, self.probing = self.probing, False
        facts = {
            "agent": self.executor.agent_name,
            "pool": self.ring.pool_name,
            "key": mask(key.get_secret_value()),
            "error": kind,
            "action": action.value,
        }
        if action is Action.RETRY:
            accounts.breakers.failed(self.bucket, probe=probing)
            accounts.wake()
            log.warning("request_failed", **facts)
            await self._pause(verdict.retry_after)
            return
        self._reached()
        if action is Action.REST:
            self._refused(verdict, key, facts)
        elif action is Action.SLOW_DOWN:
            seconds = accounts.too_fast(key, verdict.retry_after)
            log.warning("request_failed", rest_seconds=round(seconds, 1), **facts)
        elif action is Action.BLOCKED:
            accounts.block(verdict.retry_after or BLOCKED_SECONDS)
            log.error("address_blocked", **facts)
            track(Unavailable("the service blocks this machine's address"), facts)
        else:
            accounts.disable(key, whole_project=action is Action.DISABLE_PROJECT)
            log.error("key_disabled", **facts)
            what = "project" if action is Action.DISABLE_PROJECT else "key"
            track(ConfigurationError(f"an API {what} of {facts['pool']} was disabled"), facts)
            self._emit("hydra.key_disabled", facts)

    def _emit(self, event_type: str, facts: dict[str, str]) -> None:
        if self.accounts.sharing is not None:
            payload = {name: facts[name] for name in ("key", "agent", "error")}
            self.accounts.sharing.emit_soon(event_type, self.ring.pool_name, payload)

    def _refused(self, verdict: Verdict, key: ApiKey, facts: dict[str, str]) -> None:
        named = verdict.bucket if verdict.bucket in self.accounts.buckets else None
        bucket = named or self.bucket
        known = self.accounts.is_resting(key, bucket)
        until = self.accounts.refuse(key, bucket)
        log.warning("key_spent", bucket=bucket, until=until.isoformat(), **facts)
        if not known:
            self._emit("hydra.key_rotated", facts)
        self.named = bucket
        self.refused.add(identify(key).project)
        if self.caller is not None:
            self.executor.callers.refused(self.caller, bucket, self.accounts, until, known=known)

    async def _pause(self, retry_after: float | None) -> None:
        settings = get_settings()
        self.failures += 1
        if self.failures >= settings.hydra_retry_attempts:
            raise GivenUp
        pause = retry.growing_pause(self.failures, backoff=settings.hydra_backoff_factor)
        await retry.pause(max(pause, min(retry_after or 0.0, retry.LONGEST_PAUSE)))
