"""A Discord of the tests' own: judges messages and limits them as the real one is documented to."""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from typing import Any

from tests.support.servers.http import Reply, Request


def units(text: str) -> int:
    return len(text.encode("utf-16-le")) // 2


def complaints(message: dict[str, Any]) -> list[str]:
    """What Discord would refuse a message for."""
    found, total = [], 0
    if message.get("allowed_mentions") != {"parse": []}:
        found.append("mentions are allowed")
    embeds = message.get("embeds", [])
    if not 1 <= len(embeds) <= 10:
        found.append("number of embeds")
    for embed in embeds:
        fields = embed.get("fields", [])
        texts = [
            (embed.get("title", ""), 256),
            (embed.get("description", ""), 4096),
            (embed.get("footer", {}).get("text", ""), 2048),
        ]
        for item in fields:
            texts += [(item["name"], 256), (item["value"], 1024)]
            if not item["name"].strip() or not item["value"].strip():
                found.append("an empty field")
        found += [f"over {limit}: {units(text)}" for text, limit in texts if units(text) > limit]
        total += sum(units(text) for text, _ in texts)
        if len(fields) > 25:
            found.append("too many fields")
        if not (embed.get("title") or embed.get("description") or fields):
            found.append("an empty message")
    if total > 6000:
        found.append(f"over 6000 in all: {total}")
    return found


class Discord:
    """Answers requests; ``limit`` messages in ``window`` seconds, told in headers, and ``hidden`` more."""

    def __init__(
        self,
        limit: int = 5,
        window: float = 2.0,
        hidden: tuple[int, float, float] | None = None,
    ) -> None:
        self.limit, self.window = limit, window
        #: (messages, seconds, what Retry-After says): a limit that no header tells.
        self.hidden = hidden
        self.saved: list[dict[str, Any]] = []
        self.refused = 0
        self.complaints: list[str] = []
        self._lock = threading.Lock()
        self._begun, self._count = 0.0, 0
        self._recent: deque[float] = deque()

    def __call__(self, request: Request) -> Reply:
        if not request.path.endswith("?wait=true"):
            return Reply(204)
        message = json.loads(request.body)
        if problems := complaints(message):
            self.complaints += problems
            return Reply(400, json.dumps(problems).encode())
        with self._lock:
            now = time.monotonic()
            if now - self._begun >= self.window:
                self._begun, self._count = now, 0
            if self._count >= self.limit:
                return self._refuse(self._begun + self.window - now)
            if self.hidden is not None:
                most, seconds, pause = self.hidden
                while self._recent and self._recent[0] < now - seconds:
                    self._recent.popleft()
                if len(self._recent) >= most:
                    return self._refuse(pause)
                self._recent.append(now)
            self._count += 1
            self.saved.append(message)
            headers = {
                "X-RateLimit-Limit": str(self.limit),
                "X-RateLimit-Remaining": str(self.limit - self._count),
                "X-RateLimit-Reset-After": f"{self._begun + self.window - now:.3f}",
                "X-RateLimit-Bucket": "b",
            }
        return Reply(200, b'{"id": "1"}', headers)

    def _refuse(self, pause: float) -> Reply:
        self.refused += 1
        body = {"message": "You are being rate limited.", "retry_after": pause, "global": False}
        return Reply(429, json.dumps(body).encode(), {"Retry-After": str(int(pause) + 1)})

    @property
    def embeds(self) -> list[dict[str, Any]]:
        """All embeds that were saved, in order."""
        return [embed for message in self.saved for embed in message["embeds"]]
