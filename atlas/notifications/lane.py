"""One lane a webhook: messages leave one after the other, at the pace that Discord allows.

The pace is what the answers say (``X-RateLimit-*``; discord-api-docs: "Rate Limits"); webhooks whose answers
name the same ``X-RateLimit-Bucket`` share it. Processes that share a database take slots from one row;
without it each keeps to a quarter of the pace.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from atlas import webhook_client
from atlas.errors import Unavailable
from atlas.notifications.message import EMBEDS_LIMIT, TOTAL_LIMIT, build_embed, payload, units
from atlas.repositories.notifications import INVALID_LIMIT, Slot
from atlas.types import AlertLevel

__all__ = ["Lane", "Pace", "Rules", "Slots"]

#: Seconds between two messages while a webhook has not said how many it takes: five in two seconds.
_SPACING = 0.4
#: How much slower a process is that cannot ask the others.
_ALONE = 4.0
#: Messages that wait, beyond which they are packed; beyond the second number the least important are counted.
_PACKED_OVER, _COUNTED_OVER = 5, 200
#: Seconds after which a waiting call looks by itself whether it is its turn.
_LOOK_AGAIN = 1.0
#: Seconds in which `INVALID_LIMIT` answers silence the lane.
_INVALID_WINDOW = 600.0
_INVALID = frozenset({401, 403, 404, 429})
_DEAD = frozenset({401, 403, 404})
#: From the least important on.
_LEVELS = (AlertLevel.INFO, AlertLevel.SUCCESS, AlertLevel.WARNING, AlertLevel.CRITICAL)


class Slots(Protocol):
    """What processes share about webhooks; None where they cannot."""

    async def reserve(self, webhook: str, spacing: float, bucket: str | None = None) -> Slot | None:
        """The next slot of all processes."""
        ...

    async def note(
        self, webhook: str, *, pause: float, dead: bool, invalid: bool, bucket: str | None = None
    ) -> None:
        """Share with the other processes what an answer said."""
        ...


@dataclass(slots=True)
class Rules:
    """How long and how often a message is tried."""

    attempts: int = 4
    #: Seconds before the second try; doubles from there.
    delay: float = 1.0
    #: Seconds from `Notifier.send` until a message is given up.
    deadline: float = 120.0
    #: Seconds that one try may take.
    timeout: float = 15.0


@dataclass(eq=False, slots=True)
class _Waiting:
    """A message on its way. ``error`` is None once Discord has saved it."""

    embed: dict[str, Any]
    level: AlertLevel
    until: float
    loop: asyncio.AbstractEventLoop
    woken: asyncio.Event = field(default_factory=asyncio.Event)
    done: bool = False
    error: str | None = None

    def wake(self) -> bool:
        """Let its call look again; False: its loop has ended."""
        try:
            self.loop.call_soon_threadsafe(self.woken.set)
        except RuntimeError:
            return False
        return True


@dataclass(eq=False, slots=True)
class Pace:
    """When the next message of a webhook, or of all webhooks of a bucket, may leave this process."""

    free_at: float = 0.0


class Lane:
    """The messages for one webhook, from any thread and event loop of this process."""

    def __init__(self, url: str, buckets: dict[str, Pace] | None = None) -> None:
        self._url = _saving(url)
        self.key = _digest(url)
        #: The bucket that the answers name; its paces are those of all lanes by bucket.
        self.bucket: str | None = None
        self._buckets = {} if buckets is None else buckets
        self._paces = [Pace()]
        #: No message will ever be taken: the webhook was deleted, or its token is wrong.
        self.dead = False
        self._lock = threading.Lock()
        self._waiting: list[_Waiting] = []
        self._busy = False
        self._left_out: dict[AlertLevel, int] = {}
        self._spacing = _SPACING
        self._invalid: deque[float] = deque()

    async def send(
        self,
        embed: dict[str, Any],
        level: AlertLevel,
        rules: Rules,
        slots: Slots,
        sleep: Callable[[float], Awaitable[None]],
    ) -> str | None:
        """Wait for the turn of a message and send it; None, or why it was not saved."""
        until = time.monotonic() + rules.deadline
        mine = _Waiting(embed, level, until, asyncio.get_running_loop())
        self._enter(mine)
        try:
            while not mine.done:
                if self._take_over():
                    try:
                        await self._drive(mine, rules, slots, sleep)
                    finally:
                        self._hand_over()
                elif time.monotonic() > until + rules.timeout:
                    return "not sent in time: too many messages wait"
                else:
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(mine.woken.wait(), _LOOK_AGAIN)
                    mine.woken.clear()
        finally:
            with self._lock:
                if mine in self._waiting:
                    self._waiting.remove(mine)
        return mine.error

    def _enter(self, new: _Waiting) -> None:
        with self._lock:
            # the important first, each in order of arrival
            place = len(self._waiting)
            if new.level is AlertLevel.CRITICAL:
                place = sum(one.level is AlertLevel.CRITICAL for one in self._waiting)
            self._waiting.insert(place, new)
            if len(self._waiting) <= _COUNTED_OVER:
                return
            least = min(self._waiting, key=lambda one: _LEVELS.index(one.level))
            self._waiting.remove(least)
            self._left_out[least.level] = self._left_out.get(least.level, 0) + 1
        self._settle([least], "left out: too many messages waited, it was counted instead")

    def _take_over(self) -> bool:
        with self._lock:
            if self._busy:
                return False
            self._busy = True
            return True

    def _hand_over(self) -> None:
        """Nobody sends now: wake the next one, which goes on."""
        with self._lock:
            self._busy = False
            waiting = list(self._waiting)
        for one in waiting:
            if one.wake():
                return

    def _settle(self, batch: list[_Waiting], error: str | None) -> None:
        for one in batch:
            one.done, one.error = True, error
            one.wake()

    async def _drive(
        self,
        mine: _Waiting,
        rules: Rules,
        slots: Slots,
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        """Send what waits, in order, until ``mine`` is settled."""
        async with webhook_client.client(timeout=rules.timeout, allow_private=True) as client:
            while not mine.done:
                batch = self._next()
                if not batch:
                    return
                try:
                    error = await self._deliver(client, batch, rules, slots, sleep)
                except BaseException:
                    # cancelled: what the others wait for goes on with the next one
                    with self._lock:
                        self._waiting[:0] = [one for one in batch if one is not mine]
                    raise
                self._settle(batch, error)

    def _next(self) -> list[_Waiting]:
        """The first message that waits, or as many as one message takes, where many do."""
        with self._lock:
            batch, size = self._waiting[:1], 0
            if len(self._waiting) > _PACKED_OVER:
                room = TOTAL_LIMIT - (64 if self._left_out else 0)
                batch = []
                for one in self._waiting[: EMBEDS_LIMIT - bool(self._left_out)]:
                    size += units(one.embed)
                    if batch and size > room:
                        break
                    batch.append(one)
            del self._waiting[: len(batch)]
            return batch

    def _body(self, batch: list[_Waiting]) -> bytes:
        embeds = [one.embed for one in batch]
        with self._lock:
            left_out, room = self._left_out, TOTAL_LIMIT - sum(map(units, embeds))
            if left_out and room >= 64 and len(embeds) < EMBEDS_LIMIT:
                self._left_out = {}
                more = ", ".join(f"{n} more {level.name}" for level, n in left_out.items())
                embeds.append(build_embed(None, f"{more} left out", AlertLevel.WARNING, None))
        return json.dumps(payload(embeds)).encode()

    async def _deliver(
        self,
        client: webhook_client.Client,
        batch: list[_Waiting],
        rules: Rules,
        slots: Slots,
        sleep: Callable[[float], Awaitable[None]],
    ) -> str | None:
        """Post a batch, with retries; None, or what went wrong in the end."""
        body, until = self._body(batch), min(one.until for one in batch)
        failures, error = 0, ""
        while failures < rules.attempts:
            if refusal := await self._turn(until, slots, sleep):
                return refusal
            try:
                answer = await client.post(self._url, body, {"content-type": "application/json"})
            except Unavailable as failure:
                error = failure.message
            else:
                await self._learn(answer, slots)
                if answer.ok:
                    return None
                error = f"answered {answer.status}"
                if answer.status == 429:
                    continue  # too fast is no failure: the pause it asked for is taken above
                if answer.status < 500:
                    return error
            failures += 1
            if failures < rules.attempts:
                await sleep(rules.delay * 2 ** (failures - 1))
        return error

    async def _turn(
        self, until: float, slots: Slots, sleep: Callable[[float], Awaitable[None]]
    ) -> str | None:
        """Wait until this lane may post; or why it may not before ``until``."""
        slot = await slots.reserve(self.key, self._spacing, self.bucket)
        now = time.monotonic()
        while self._invalid and self._invalid[0] < now - _INVALID_WINDOW:
            self._invalid.popleft()
        silent = (
            self._invalid[0] + _INVALID_WINDOW - now if len(self._invalid) >= INVALID_LIMIT else 0.0
        )
        wait = max(0.0, *(pace.free_at - now for pace in self._paces))
        if slot is not None:
            self.dead = self.dead or slot.dead
            silent, wait = max(silent, slot.silent), max(wait, slot.wait)
        if self.dead:
            return "the webhook was deleted or refuses its token"
        if silent > 0:
            return f"silenced for {silent:.0f} s after {INVALID_LIMIT} invalid answers"
        if now + wait > until:
            return f"rate limited for {wait:.0f} s more"
        if slot is None:
            for pace in self._paces:
                pace.free_at = now + wait + self._spacing * _ALONE
        if wait > 0:
            await sleep(wait)
        return None

    async def _learn(self, answer: webhook_client.Answer, slots: Slots) -> None:
        """Take the pace from an answer, and share with the other processes what concerns them."""
        pause = 0.0
        limit, remaining, reset = (
            _seconds(answer.headers.get(f"x-ratelimit-{name}"))
            for name in ("limit", "remaining", "reset-after")
        )
        if answer.status == 429:
            pause = _retry_after(answer)
        elif remaining == 0 and reset is not None:
            pause = reset
        elif limit and reset and remaining == limit - 1:
            # the first of a window: its length is known
            self._spacing = min(max(reset / limit, 0.05), 5.0)
        self._join(answer.headers.get("x-ratelimit-bucket"))
        if pause:
            for pace in self._paces:
                pace.free_at = max(pace.free_at, time.monotonic() + pause)
        invalid, self.dead = answer.status in _INVALID, answer.status in _DEAD
        if invalid:
            self._invalid.append(time.monotonic())
        if pause or invalid:
            await slots.note(
                self.key, pause=pause, dead=self.dead, invalid=invalid, bucket=self.bucket
            )

    def _join(self, bucket: str | None) -> None:
        """Share the pace of a bucket from now on."""
        if bucket is None:
            return
        key = _digest(f"bucket {bucket}")
        if key != self.bucket:
            self.bucket = key
            self._paces = [self._paces[0], self._buckets.setdefault(key, Pace())]


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16, person=b"atlas-lane").hexdigest()


def _saving(url: str) -> str:
    """``url`` with ``wait=true``, without which Discord hides a failure to save the message."""
    parts = urlsplit(url)
    query = [*((k, v) for k, v in parse_qsl(parts.query) if k != "wait"), ("wait", "true")]
    return urlunsplit(parts._replace(query=urlencode(query)))


def _retry_after(answer: webhook_client.Answer) -> float:
    """The pause in seconds: the body's, which has fractions, else the header's, else one second."""
    try:
        pause = _seconds(json.loads(answer.body)["retry_after"])
    except (ValueError, KeyError, TypeError):
        pause = None
    if pause is None:
        pause = webhook_client.retry_after(answer)
    return 1.0 if pause is None else pause


def _seconds(value: Any) -> float | None:
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        return None
    return seconds if 0 <= seconds < float("inf") else None
