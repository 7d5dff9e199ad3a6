"""The notifier: what programs call."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any, ParamSpec, TypeVar
from urllib.parse import urlsplit

from atlas import webhook_client
from atlas.config import Settings, get_settings
from atlas.db import Database
from atlas.errors import AtlasError, ConfigurationError
from atlas.logging import get_logger
from atlas.notifications.forwarding import send_by_apprise
from atlas.notifications.lane import Lane, Pace, Rules
from atlas.notifications.message import Fields, build_embed, find_channel, find_level, plain
from atlas.notifications.sharing import Shared
from atlas.notifications.tracking import Captured, Tracker
from atlas.types import AlertChannel, AlertLevel

__all__ = ["Notifier", "notifier"]

log = get_logger(__name__)

#: Discord's, those of its testers and its old name among them.
_HOSTS = ("discord.com", "discordapp.com")

P = ParamSpec("P")
T = TypeVar("T")


class Notifier:
    """Sends notifications and tracks errors; what cannot be sent is logged, never raised.

    Without settings those of the process are used, read at the first call. Safe from any thread and
    from several event loops.
    """

    def __init__(self, settings: Settings | None = None, database: Database | None = None) -> None:
        self._settings = settings
        self.rules = Rules()
        self.shared = Shared(settings, database)
        self._lanes: dict[str, Lane] = {}
        self._buckets: dict[str, Pace] = {}
        self._lock = threading.Lock()
        self._sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
        self._tracker = Tracker(self._announce, self.shared, settings)

    @property
    def is_configured(self) -> bool:
        """Whether errors can be counted or announced: there is a database or a webhook."""
        settings = self._settings or get_settings()
        webhooks = (getattr(settings, f"discord_webhook_{c.name.lower()}") for c in AlertChannel)
        others = (settings.apprise_urls, settings.sentry_dsn)
        return self.shared.database is not None or any(webhooks) or any(others)

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
        ellipsis, secrets are masked, nobody is ever mentioned. Messages of a webhook leave in order, the
        critical ones first, at the pace that Discord allows; where many wait several go in one. A message
        that could not be sent within two minutes is given up. A channel without a webhook falls back to
        that of the alerts, and so does one whose webhook was deleted or refuses its token. The addresses in
        APPRISE_URLS get every message besides; without any webhook True means that they took it. Never raises
        but for cancellation.
        """
        try:
            target, severity = find_channel(channel), find_level(level)
            embed = build_embed(title, description, severity, fields)
            sent, forwarded = await asyncio.gather(
                self._send(target, embed, severity, plain(title)),
                send_by_apprise(self._settings or get_settings(), embed, severity),
            )
            return sent or (forwarded and not self._lanes)
        except Exception as error:
            # a foreign error's text may hold the webhook's address
            reason = str(error) if isinstance(error, AtlasError) else type(error).__name__
            log.error("notification_failed", title=plain(title), error=reason)
            return False

    def capture(
        self,
        error: BaseException,
        context: object = None,
        *,
        fingerprint: str | None = None,
        level: AlertLevel | str = AlertLevel.CRITICAL,
    ) -> Captured:
        """Track an error: count it in its group, and notify once for all that are alike. Never raises.

        Errors are alike that have the same types along their chain and the same place in the program,
        whatever their message and line numbers; ``fingerprint`` says it otherwise. Members of an exception
        group are separate. ``context`` is a mapping of facts, which are kept without secrets, 8 kB at most.
        Counts reach PostgreSQL within a second or so, by a thread; a group is announced at its first
        error, in a digest five minutes later and hourly from then on, and when it comes back after it
        was resolved. Awaiting the result waits until all that was captured so far is counted and announced.
        """
        return self._tracker.capture(error, context, fingerprint, level)

    def watch(self, function: Callable[P, T]) -> Callable[P, T]:
        """Decorate a plain or async function: what it raises is captured, and raised."""
        return self._tracker.watch(function)

    async def _announce(self, *message: Any, **options: Any) -> bool:
        """`send` for tracked errors: without a webhook they are in the database, which needs no warning."""
        settings = self._settings or get_settings()
        if settings.discord_webhook_alerts is None and not settings.apprise_urls:
            return False
        return await self.send(*message, **options)

    async def flush(self) -> None:
        """Count and announce all that was captured so far."""
        await self._tracker.flush()

    async def digests(self) -> int:
        """Send the digests of error groups that are due, of all processes; returns how many."""
        return await self._tracker.digests()

    async def _send(
        self, channel: AlertChannel, embed: dict[str, Any], level: AlertLevel, title: str
    ) -> bool:
        lanes = self._lanes_of(channel)
        if not lanes and (self._settings or get_settings()).apprise_urls:
            return False
        if not lanes:
            log.warning(
                "notification_not_configured",
                channel=channel.value,
                title=title,
                hint="set DISCORD_WEBHOOK_ALERTS",
            )
            return False
        for lane in lanes:
            if lane.dead:
                continue
            error = await lane.send(embed, level, self.rules, self.shared, self._sleep)
            if error is None:
                return True
            log.error("notification_failed", channel=channel.value, title=title, error=error)
            if not lane.dead:
                return False
        return False

    def _lanes_of(self, channel: AlertChannel) -> list[Lane]:
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
        urls = [
            _checked(secret.get_secret_value().strip(), variable, settings)
            for variable, secret in wanted.items()
            if secret is not None
        ]
        with self._lock:
            return [
                self._lanes.setdefault(url, Lane(url, self._buckets)) for url in dict.fromkeys(urls)
            ]


def _checked(url: str, variable: str, settings: Settings) -> str:
    """The address of a webhook. Raises `ConfigurationError`, which hides it."""
    webhook_client.check_url(url, variable)
    if not (settings.throwaway or settings.discord_allow_other_hosts or _is_of_discord(url)):
        raise ConfigurationError(
            f"{variable}: got a masked value that is not an address of Discord",
            hint="write https://discord.com/api/webhooks/..., or set DISCORD_ALLOW_OTHER_HOSTS=true",
        )
    return url


def _is_of_discord(url: str) -> bool:
    parts = urlsplit(url)
    host = (parts.hostname or "").removesuffix(".").lower()
    return parts.scheme == "https" and any(
        host == name or host.endswith(f".{name}") for name in _HOSTS
    )


#: The default notifier; reads its settings on first use.
notifier = Notifier()
