"""A stand-in for the YouTube Data API on loopback, with the error bodies the real one sends."""

from __future__ import annotations

import json
import threading
from typing import Any
from urllib.parse import parse_qs, urlsplit

import aiohttp

from tests.support.servers.http import LoopbackServer, Reply, Request


def problem(code: int, reason: str, message: str = "said") -> Reply:
    errors = [{"message": message, "domain": "youtube.quota", "reason": reason}]
    body = {"error": {"code": code, "message": message, "errors": errors}}
    return Reply(code, json.dumps(body).encode())


SPENT = problem(403, "quotaExceeded", "you have exceeded your <a href=...>quota</a>.")
TOO_FAST = problem(403, "rateLimitExceeded", "Rate Limit Exceeded")
DEAD = problem(400, "badRequest", "API key not valid. Please pass a valid API key.")
NOT_ENABLED = problem(403, "accessNotConfigured", "Access Not Configured.")
NOT_FOUND = problem(404, "videoNotFound", "The video cannot be found.")
BROKEN = problem(503, "backendError", "Backend Error")
GOOD = Reply(200, b'{"items": []}')


class HttpError(Exception):
    """As googleapiclient's: the text holds the URL, and so the key."""

    def __init__(self, status: int, content: bytes, uri: str) -> None:
        super().__init__(f'<HttpError {status} when requesting {uri} returned "...">')
        self.status_code = status
        self.content = content
        self.uri = uri


class YouTube:
    """Answers by key: the scripted replies in turn, the last for ever; `GOOD` to unscripted keys."""

    def __init__(self, server: LoopbackServer) -> None:
        self.url = server.url
        self.asked: list[str] = []
        self._scripts: dict[str, list[Reply]] = {}
        self._lock = threading.Lock()
        server.respond = self._respond

    def script(self, key: str, *replies: Reply) -> None:
        self._scripts[key] = list(replies)

    def _respond(self, request: Request) -> Reply:
        (key,) = parse_qs(urlsplit(request.path).query)["key"]
        with self._lock:
            self.asked.append(key)
            replies = self._scripts.get(key, [GOOD])
            return replies.pop(0) if len(replies) > 1 else replies[0]

    async def search(self, key: str) -> Any:
        """A request as an agent makes it."""
        url = f"{self.url}/youtube/v3/search?q=x&key={key}"
        async with aiohttp.ClientSession() as session, session.get(url) as answer:
            content = await answer.read()
            if answer.status >= 400:
                raise HttpError(answer.status, content, url)
            return json.loads(content)
