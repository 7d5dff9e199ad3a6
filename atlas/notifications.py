"""Notifications to people: embeds through Discord webhooks.

The limits are Discord's (discord-api-docs: "Embed limits", "Rate limits"). Lengths are counted in
UTF-16 units, which are never fewer than the characters Discord counts.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from atlas import webhook_client
from atlas.config import Settings, get_settings
from atlas.errors import AtlasError, Unavailable
from atlas.logging import get_logger
from atlas.types import AlertChannel, AlertLevel

__all__ = ["AlertChannel", "AlertLevel", "Notifier", "build_message", "notifier"]

log = get_logger(__name__)

TITLE_LIMIT = 256
DESCRIPTION_LIMIT = 4096
FIELDS_LIMIT = 25
NAME_LIMIT = 256
VALUE_LIMIT = 1024
#: Characters in all embeds of a message together.
TOTAL_LIMIT = 6000
#: What the description leaves to the fields where both are long.
DESCRIPTION_SHARE = 3000
#: Kept for the footer that tells how many fields were left out.
FOOTER_SHARE = 64
#: Discord takes a field without a visible name or value only with this in its place.
BLANK = "\u200b"

Fields = Mapping[str, Any] | Iterable[Mapping[str, Any]]


class Notifier:
    """Sends notifications; what cannot be sent is logged, never raised.

    Without settings those of the process are used, read at the first call. Safe from any thread and
    from several event loops.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self._settings = settings
        #: Tries of one message at one webhook.
        self.attempts = 4
        #: Seconds before the second try; doubles from there, with jitter.
        self.delay = 1.0
        #: Longest pause that Discord's rate limit is granted, in seconds; longer ones drop the
        #: message.
        self.longest_wait = 30.0
        #: Seconds that one try may take.
        self.timeout = 15.0
        self._gone: set[str] = set()
        self._rest_until: dict[str, float] = {}
        self._sleep: Callable[[float], Awaitable[None]] = asyncio.sleep

    async def send(
        self,
        title: str,
        description: str,
        channel: AlertChannel | str = AlertChannel.ALERTS,
        level: AlertLevel | str = AlertLevel.INFO,
        fields: Fields | None = None,
    ) -> bool:
        """Send one message; True once Discord has saved it.

        ``channel`` and ``level`` may be given by name. ``fields`` is a mapping of names to values,
        or a list of ``{"name", "value", "inline"}``. Texts over Discord's limits are cut with an
        ellipsis; nobody is ever mentioned. A channel without a webhook falls back to that of the
        alerts, and so does one whose webhook was deleted (404). Never raises but for cancellation.
        """
        try:
            target = _channel(channel)
            message = build_message(title, description, _level(level), fields)
            return await self._send(target, message, title)
        except Exception as error:
            # a foreign error's text may hold the webhook's address
            reason = str(error) if isinstance(error, AtlasError) else type(error).__name__
            log.error("notification_failed", title=str(title), error=reason)
            return False

    async def _send(self, channel: AlertChannel, message: dict[str, Any], title: str) -> bool:
        urls = self._webhooks(channel)
        if not urls:
            log.warning(
                "notification_not_configured",
                channel=channel.value,
                title=str(title),
                hint="set DISCORD_WEBHOOK_ALERTS",
            )
            return False
        body = json.dumps(message).encode()
        async with webhook_client.client(timeout=self.timeout, allow_private=True) as client:
            for url in urls:
                if url in self._gone:
                    continue
                error = await self._post(client, url, body)
                if error is None:
                    return True
                log.error(
                    "notification_failed", channel=channel.value, title=str(title), error=error
                )
                if url not in self._gone:
                    return False
        return False

    def _webhooks(self, channel: AlertChannel) -> list[str]:
        """Where to try, in order: the channel's own webhook, then that of the alerts."""
        settings = self._settings or get_settings()
        own = {
            AlertChannel.ALERTS: settings.discord_webhook_alerts,
            AlertChannel.HUNT: settings.discord_webhook_hunt,
            AlertChannel.SURVEILLANCE: settings.discord_webhook_surveillance,
            AlertChannel.OPS: settings.discord_webhook_ops,
        }[channel]
        wanted = {
            f"DISCORD_WEBHOOK_{channel.name}": own,
            "DISCORD_WEBHOOK_ALERTS": settings.discord_webhook_alerts,
        }
        return [
            webhook_client.check_url(secret.get_secret_value().strip(), variable)
            for variable, secret in wanted.items()
            if secret is not None
        ]

    async def _post(self, client: webhook_client.Client, url: str, body: bytes) -> str | None:
        """Send to one webhook, with retries; None, or what went wrong in the end."""
        error = ""
        for attempt in range(self.attempts):
            rest = self._rest_until.get(url, 0.0) - time.monotonic()
            if rest > self.longest_wait:
                return f"rate limited for {rest:.0f} s more"
            if rest > 0:
                await self._sleep(rest)
            try:
                answer = await client.post(
                    _waiting(url), body, {"content-type": "application/json"}
                )
            except Unavailable as failure:
                error = failure.message
            else:
                self._note_rest(url, answer)
                if answer.ok:
                    return None
                error = f"answered {answer.status}"
                if answer.status == 404:
                    self._gone.add(url)
                if answer.status != 429 and answer.status < 500:
                    return error
                if answer.status == 429:
                    continue  # the pause it asked for is taken above
            if attempt + 1 < self.attempts:
                await self._sleep(self.delay * 2**attempt * random.uniform(0.5, 1.0))
        return error

    def _note_rest(self, url: str, answer: webhook_client.Answer) -> None:
        """Remember the pause that the webhook's rate limit asks for."""
        pause: float | None = None
        if answer.status == 429:
            pause = _retry_after(answer)
        elif answer.headers.get("x-ratelimit-remaining") == "0":
            pause = _seconds(answer.headers.get("x-ratelimit-reset-after"))
        if pause is not None:
            self._rest_until[url] = time.monotonic() + pause


def build_message(
    title: str, description: str, level: AlertLevel, fields: Fields | None
) -> dict[str, Any]:
    """The message as Discord takes it: one embed within its limits, no mentions."""
    title, description = _clip(title, TITLE_LIMIT), _clip(description, DESCRIPTION_LIMIT)
    entries = list(_entries(fields))
    wanted = sum(_units(entry["name"]) + _units(entry["value"]) for entry in entries)
    room = TOTAL_LIMIT - FOOTER_SHARE - _units(title)
    description = _clip(description, max(DESCRIPTION_SHARE, room - wanted))
    room -= _units(description)

    kept: list[dict[str, Any]] = []
    for entry in entries[:FIELDS_LIMIT]:
        left = room - _units(entry["name"])
        if left < min(_units(entry["value"]), 16):
            break
        entry["value"] = _clip(entry["value"], left)
        room = left - _units(entry["value"])
        kept.append(entry)

    embed: dict[str, Any] = {
        "title": title or (BLANK if not description and not kept else ""),
        "description": description,
        "color": level.value,
        "timestamp": datetime.now(UTC).isoformat(),
        "fields": kept,
    }
    if len(kept) < len(entries):
        embed["footer"] = {"text": f"{len(entries) - len(kept)} more fields left out"}
    return {
        "embeds": [{key: value for key, value in embed.items() if value not in ("", [])}],
        "allowed_mentions": {"parse": []},
    }


def _entries(fields: Fields | None) -> Iterator[dict[str, Any]]:
    if fields is None:
        return
    if isinstance(fields, Mapping):
        fields = [{"name": name, "value": value, "inline": True} for name, value in fields.items()]
    for field in fields:
        yield {
            "name": _clip(field.get("name"), NAME_LIMIT) or BLANK,
            "value": _clip(field.get("value"), VALUE_LIMIT) or BLANK,
            "inline": bool(field.get("inline", False)),
        }


def _clip(value: object, limit: int) -> str:
    """``value`` as text without white space around it, at most ``limit`` UTF-16 units long."""
    encoded = ("" if value is None else str(value)).strip().encode("utf-16-le", "replace")
    if len(encoded) <= 2 * limit:
        return encoded.decode("utf-16-le")
    # half of a surrogate pair at the cut is dropped
    return encoded[: 2 * (limit - 1)].decode("utf-16-le", "ignore").rstrip() + "…"


def _units(value: str) -> int:
    return len(value.encode("utf-16-le")) // 2


def _channel(value: AlertChannel | str) -> AlertChannel:
    """The channel by itself, its value or its name; the alerts channel for an unknown one."""
    for channel in AlertChannel:
        if str(value).lower() in (channel.value, channel.name.lower()):
            return channel
    log.warning("notification_channel_unknown", channel=str(value))
    return AlertChannel.ALERTS


def _level(value: AlertLevel | str | int) -> AlertLevel:
    """The level by itself, its name or its colour; INFO for an unknown one."""
    for level in AlertLevel:
        if value in (level, level.value) or str(value).upper() == level.name:
            return level
    log.warning("notification_level_unknown", value=str(value))
    return AlertLevel.INFO


def _waiting(url: str) -> str:
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


#: The default notifier; reads its settings on first use.
notifier = Notifier()
