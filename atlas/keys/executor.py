"""Requests that move on to the next key when one is spent, and end cleanly when all are."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from datetime import datetime
from typing import Any, Literal, NoReturn, TypeVar

from atlas.errors import InvalidInput, QuotaExhausted, Unavailable
from atlas.keys import ending, youtube
from atlas.keys.call import Call, GivenUp, NoKeyLeft, track
from atlas.keys.callers import Callers
from atlas.keys.ring import KeyRing
from atlas.keys.youtube import Action, Verdict
from atlas.logging import get_logger

__all__ = ["HydraExecutor", "execute_youtube_request_async"]

T = TypeVar("T")
RequestFunction = Callable[[str], Awaitable[T]]
#: Gets the error, returns ``(is_quota, is_retryable)``.
ErrorClassifier = Callable[[Exception], tuple[bool, bool]]

log = get_logger(__name__)


class HydraExecutor:
    """Makes requests with the keys of a ring. Many may run at once; they share what is known of the keys.

    ``on_exhausted`` says what happens when every key is spent: ``"exit"`` raises ``SystemExit(0)``, so
    that the process ends cleanly and can be started again after the reset; ``"raise"`` raises
    `QuotaExhausted`.
    """

    def __init__(
        self,
        key_ring: KeyRing,
        agent_name: str = "unknown",
        *,
        on_exhausted: Literal["exit", "raise"] = "exit",
    ) -> None:
        if on_exhausted not in ("exit", "raise"):
            raise InvalidInput(
                f"on_exhausted takes 'exit' or 'raise', got {on_exhausted!r}",
                field="on_exhausted",
                value=on_exhausted,
            )
        self.key_ring = key_ring
        self.agent_name = agent_name
        self.on_exhausted = on_exhausted
        self._exhausted: dict[str, datetime | None] = {}
        self.callers = Callers(agent_name)

    @property
    def ending(self) -> bool:
        """Whether the program that runs under `run` is about to end, because keys are spent."""
        return ending.is_ending()

    @staticmethod
    def run(
        main: Coroutine[Any, Any, T] | Callable[[], Coroutine[Any, Any, T]],
        *,
        grace: float | None = None,
    ) -> T:
        """Run a whole program, as ``asyncio.run`` does; see `atlas.keys.ending.run`.

        When keys are spent, the other tasks of the program have ``grace`` seconds (30) to finish before
        ``SystemExit(0)``; without it they are cancelled at once.
        """
        return ending.run(main, grace=grace)

    async def execute_async(
        self,
        request_func: RequestFunction[T],
        error_classifier: ErrorClassifier | None = None,
        *,
        bucket: str = "general",
        cost: int = 1,
    ) -> T | None:
        """Await ``request_func(key)`` and return its result.

        ``bucket`` is the quota bucket that the request draws ``cost`` units from. An error is judged by
        ``error_classifier``, else by `atlas.keys.youtube.judge`:

        - quota spent: that bucket of the key's project rests until the next midnight in Los Angeles, and the
          next key is tried; a dead key or project is disabled likewise, and logged as an error;
        - too fast: the project rests, and another or the same is asked later, which costs no attempt but at
          most HYDRA_MAX_WAIT_SECONDS in all;
        - retryable: again after a growing, jittered pause, HYDRA_RETRY_ATTEMPTS attempts in all;
        - everything else is raised as it is.

        None is returned when attempts or seconds are used up. When no key is left: see ``on_exhausted``;
        `ConfigurationError` if every key is disabled. Raises `InvalidInput` for an unknown bucket and for
        a cost below 1.
        """
        call = Call(self, request_func, _judge(error_classifier), bucket, cost)
        try:
            return await call.run()
        except GivenUp:
            facts = {"agent": self.agent_name, "pool": self.key_ring.pool_name, "bucket": bucket}
            log.warning("request_given_up", **facts)
            track(Unavailable(f"requests of {self.agent_name} are given up"), facts)
            return None
        except NoKeyLeft:
            pass
        # Not in a handler, here and in the call: an error of the request must not become the context of
        # this one, because the text of such errors often holds the URL, and so the key.
        await self._end(call.bucket)

    async def _end(self, bucket: str) -> NoReturn:
        error, accounts = self.key_ring.exhausted(bucket), self.key_ring.accounts
        # who goes on calling sees it once a rest
        if isinstance(error, QuotaExhausted) and self._exhausted.get(bucket) != error.retry_at:
            self._exhausted[bucket] = error.retry_at
            await ending.emit_exhausted(error, self.agent_name, bucket, accounts)
        if not isinstance(error, QuotaExhausted) or self.on_exhausted == "raise":
            track(error, {"agent": self.agent_name, "pool": self.key_ring.pool_name})
            raise error
        await ending.announce(error, self.agent_name, bucket, accounts)
        ending.leave()


async def execute_youtube_request_async(
    key_ring: KeyRing,
    request_func: RequestFunction[T],
    agent_name: str = "youtube_api",
    *,
    on_exhausted: Literal["exit", "raise"] = "exit",
    bucket: str = "general",
    cost: int = 1,
) -> T | None:
    """`HydraExecutor.execute_async` with YouTube's errors, for a single request."""
    executor = HydraExecutor(key_ring, agent_name, on_exhausted=on_exhausted)
    return await executor.execute_async(request_func, bucket=bucket, cost=cost)


def _judge(classifier: ErrorClassifier | None) -> Callable[[Exception], Verdict]:
    if classifier is None:
        return youtube.judge

    def judge(error: Exception) -> Verdict:
        is_quota, is_retryable = classifier(error)
        said = youtube.judge(error)  # for the bucket and the wait only
        if is_quota:
            return Verdict(Action.REST, said.bucket if said.action is Action.REST else None)
        return Verdict(Action.RETRY if is_retryable else Action.FAIL, None, said.retry_after)

    return judge
