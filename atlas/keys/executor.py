"""Requests that move on to the next key when one is spent, and end cleanly when all are."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta
from typing import Literal, NoReturn, TypeVar

from atlas import retry
from atlas.config import get_settings
from atlas.errors import InvalidInput, QuotaExhausted
from atlas.keys import youtube
from atlas.keys.accounts import mask
from atlas.keys.ring import KeyRing
from atlas.keys.youtube import Action
from atlas.logging import get_logger

__all__ = ["HydraExecutor", "execute_youtube_request_async"]

#: Seconds that a project rests after it was asked too fast. Google's per-minute windows slide, so a few
#: seconds free some of it again.
SHORT_REST = 5.0

T = TypeVar("T")
RequestFunction = Callable[[str], Awaitable[T]]
#: Gets the error, returns ``(is_quota, is_retryable)``.
ErrorClassifier = Callable[[Exception], tuple[bool, bool]]

log = get_logger(__name__)


class _TryAgain(Exception):
    """The request failed in a way that may pass; ``retry_after`` as `atlas.retry` takes it."""

    def __init__(self, retry_after: float | None = None) -> None:
        super().__init__()
        self.retry_after = retry_after


class _NoKeyLeft(Exception):
    """Every key was tried or is out of use."""


class HydraExecutor:
    """Makes requests with the keys of a ring. Many may run at once; they share what the ring knows.

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

    async def execute_async(
        self,
        request_func: RequestFunction[T],
        error_classifier: ErrorClassifier | None = None,
    ) -> T | None:
        """Await ``request_func(key)`` and return its result.

        An error is judged by ``error_classifier``, else by `atlas.keys.youtube.classify`:

        - quota spent: the key's project rests until the next midnight in Los Angeles, and the next key
          is tried; a dead key or project is disabled likewise, and logged as an error;
        - retryable or too fast: again after a growing, jittered pause, HYDRA_RETRY_ATTEMPTS attempts in
          all; then None is returned;
        - everything else is raised as it is.

        When no key is left: see ``on_exhausted``; `ConfigurationError` if every key is disabled.
        """
        settings = get_settings()
        attempt = retry.retry_async(
            max_attempts=settings.hydra_retry_attempts,
            backoff=settings.hydra_backoff_factor,
            exceptions=_TryAgain,
        )(self._attempt)
        session: int | None = None
        with suppress(QuotaExhausted):
            session = self.key_ring.start_session()
        if session is None:
            self._end()
        try:
            return await attempt(session, request_func, _judge(error_classifier))
        except _TryAgain:
            log.warning("request_given_up", agent=self.agent_name, pool=self.key_ring.pool_name)
            return None
        except _NoKeyLeft:
            pass
        finally:
            self.key_ring.end_session(session)
        # Not in a handler, here and in `_attempt`: an error of the request must not become the context of
        # this one, because the text of such errors often holds the URL, and so the key.
        self._end()

    async def _attempt(
        self, session: int, request: RequestFunction[T], judge: Callable[[Exception], Action]
    ) -> T:
        """One attempt: through the keys until one gives an answer or an error that is not its own."""
        ring = self.key_ring
        while True:
            key = ring.get_session_key(session)
            if not ring.is_usable(key):  # spent meanwhile by another request
                self._rotate(session)
                continue
            if (wait := ring.seconds_to_wait(key)) > 0:
                await retry.pause(wait * random.uniform(1.0, 1.2))  # not all at once
            ring.use(key)
            try:
                return await request(key)
            except Exception as error:
                action = judge(error)
                if action is Action.FAIL:
                    raise
                self._take(action, key, type(error).__name__)
            self._rotate(session)

    def _take(self, action: Action, key: str, kind: str) -> None:
        """Do to the key what the error asks for. Raises `_TryAgain` where the key stays in use."""
        ring, now = self.key_ring, self.key_ring.accounts.now()
        facts = {
            "agent": self.agent_name,
            "pool": ring.pool_name,
            "key": mask(key),
            "error": kind,
            "action": action.value,
        }
        if action is Action.REST:
            until = youtube.next_reset(now)
            ring.rest(key, until)
            log.warning("key_spent", until=until.isoformat(), **facts)
        elif action in (Action.DISABLE_KEY, Action.DISABLE_PROJECT):
            ring.disable(key, whole_project=action is Action.DISABLE_PROJECT)
            log.error("key_disabled", **facts)
        elif action in (Action.SLOW_DOWN, Action.BLOCKED):
            rest = SHORT_REST * random.uniform(1.0, 1.5)
            ring.slow_down(key, now + timedelta(seconds=rest))
            log.warning("request_failed", **facts)
            raise _TryAgain(retry_after=rest)
        else:
            log.warning("request_failed", **facts)
            raise _TryAgain()

    def _rotate(self, session: int) -> None:
        if not self.key_ring.attempt_rotation(session):
            raise _NoKeyLeft

    def _end(self) -> NoReturn:
        error = self.key_ring.exhausted()
        if not isinstance(error, QuotaExhausted) or self.on_exhausted == "raise":
            raise error
        log.critical(
            "quota_exhausted", agent=self.agent_name, pool=self.key_ring.pool_name, hint=error.hint
        )
        raise SystemExit(0)


async def execute_youtube_request_async(
    key_ring: KeyRing,
    request_func: RequestFunction[T],
    agent_name: str = "youtube_api",
    *,
    on_exhausted: Literal["exit", "raise"] = "exit",
) -> T | None:
    """`HydraExecutor.execute_async` with YouTube's errors, for a single request."""
    executor = HydraExecutor(key_ring, agent_name, on_exhausted=on_exhausted)
    return await executor.execute_async(request_func)


def _judge(classifier: ErrorClassifier | None) -> Callable[[Exception], Action]:
    if classifier is None:
        return youtube.classify

    def judge(error: Exception) -> Action:
        is_quota, is_retryable = classifier(error)
        if is_quota:
            return Action.REST
        return Action.RETRY if is_retryable else Action.FAIL

    return judge
