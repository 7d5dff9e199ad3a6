"""A stand-in for the YouTube Data API that keeps quotas by project, bucket and Pacific day, and by minute."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, urlsplit
from zoneinfo import ZoneInfo

import aiohttp

from tests.support.refusals import PER_MINUTE, PUBLISHED, SEARCH_SPENT, SPENT
from tests.support.servers.http import LoopbackServer, Reply, Request

_PACIFIC = ZoneInfo("America/Los_Angeles")
_KINDS = {"search": "youtube#searchListResponse", "videos": "youtube#videoListResponse"}


class QuotaAPI:
    """Answers as the API would. ``projects`` maps keys to projects, ``limits`` buckets to units a day.

    ``accepted`` and ``refused`` count by (project, bucket, day); ``too_fast`` and ``down`` count what else
    was turned away. Thread-safe.
    """

    def __init__(
        self,
        projects: Mapping[str, str],
        limits: Mapping[str, int],
        *,
        per_minute: int | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.projects = dict(projects)
        self.limits = dict(limits)
        self.per_minute = per_minute
        self.clock = clock
        self.monotonic = monotonic
        self.restricted: set[str] = set()
        self.outage = False
        self.accepted: Counter[tuple[str, str, str]] = Counter()
        self.refused: Counter[tuple[str, str, str]] = Counter()
        self.refused_at: list[tuple[float, str]] = []
        self.too_fast: Counter[str] = Counter()
        self.restricted_calls = 0
        self.down = 0
        self._recent: dict[str, deque[float]] = defaultdict(deque)
        self._lock = threading.Lock()

    def serve(self, server: LoopbackServer) -> None:
        """Answer the requests of ``server``."""
        server.respond = self._respond

    def _respond(self, request: Request) -> Reply:
        parts = urlsplit(request.path)
        key = request.headers.get("x-goog-api-key") or parse_qs(parts.query).get("key", [""])[0]
        return self.answer(parts.path.rsplit("/", 1)[-1], key)

    def answer(self, method: str, key: str) -> Reply:
        """The answer to one call of ``method`` (``search``, ``videos``, ...)."""
        with self._lock:
            return self._answer(method, key)

    def _answer(self, method: str, key: str) -> Reply:
        if self.outage:
            self.down += 1
            return PUBLISHED["backend"][0]
        project = self.projects.get(key)
        if project is None:
            return PUBLISHED["wrong key"][0]
        if key in self.restricted:
            self.restricted_calls += 1
            return PUBLISHED["service blocked"][0]
        bucket = "search" if method == "search" else "general"
        account = (project, bucket, self.clock().astimezone(_PACIFIC).date().isoformat())
        now, recent = self.monotonic(), self._recent[project]
        while recent and recent[0] <= now - 60:
            recent.popleft()
        if self.per_minute is not None and len(recent) >= self.per_minute:
            self.too_fast[project] += 1
            return PER_MINUTE
        if self.accepted[account] >= self.limits[bucket]:
            self.refused[account] += 1
            self.refused_at.append((now, project))
            return SEARCH_SPENT if bucket == "search" else SPENT
        recent.append(now)
        self.accepted[account] += 1
        body = {"kind": _KINDS.get(method, f"youtube#{method}ListResponse"), "items": []}
        return Reply(200, json.dumps(body).encode())


def raise_as_agents_do(reply: Reply) -> Any:
    """The decoded body, or the plain exception of the platform's agents: 200 characters of it."""
    text = reply.body.decode()
    if reply.status >= 400:
        raise Exception(f"HTTP {reply.status}: {text[:200]}")
    return json.loads(text)


async def call_as_agents_do(session: aiohttp.ClientSession, url: str, method: str, key: str) -> Any:
    """One request over HTTP, as the platform's agents make it."""
    async with session.get(f"{url}/youtube/v3/{method}", params={"key": key}) as answer:
        return raise_as_agents_do(Reply(answer.status, await answer.read()))
