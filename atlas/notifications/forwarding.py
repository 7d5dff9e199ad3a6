"""Other ways out, each an optional extra: Apprise for messages, Sentry for tracked errors.

Both receive only what has passed the filter for secrets, and neither can fail a caller.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Mapping
from typing import Any

from atlas.config import Settings, get_settings
from atlas.logging import get_logger
from atlas.notifications.message import plain
from atlas.repositories.notifications import Tally
from atlas.types import AlertLevel

__all__ = ["Sentry", "send_by_apprise"]

log = get_logger(__name__)

#: Seconds that all addresses of Apprise may take together, and that Sentry gets at the end of the program.
_APPRISE_SECONDS, _SENTRY_SECONDS = 30.0, 2.0
_APPRISE_TYPES = {
    AlertLevel.INFO: "info",
    AlertLevel.SUCCESS: "success",
    AlertLevel.WARNING: "warning",
    AlertLevel.CRITICAL: "failure",
}
_SENTRY_LEVELS: dict[str, Any] = {
    "INFO": "info",
    "SUCCESS": "info",
    "WARNING": "warning",
    "CRITICAL": "error",
}


async def send_by_apprise(settings: Settings, embed: Mapping[str, Any], level: AlertLevel) -> bool:
    """Send an embed's text to every address of APPRISE_URLS; False where there is none, or one failed."""
    if settings.apprise_urls is None:
        return False
    try:
        import apprise

        recipients = apprise.Apprise()
        addresses = settings.apprise_urls.get_secret_value().split()
        known = [recipients.add(address) for address in addresses]
        if not all(known):
            log.error(
                "notification_failed", channel="apprise", error="an address is not one of Apprise"
            )
        fields = [f"{field['name']}: {field['value']}" for field in embed.get("fields", ())]
        body = "\n".join(filter(None, [embed.get("description", ""), *fields]))
        async with asyncio.timeout(_APPRISE_SECONDS):
            sent = await recipients.async_notify(
                body=body or embed.get("title", ""),
                title=embed.get("title", ""),
                notify_type=apprise.NotifyType(_APPRISE_TYPES[level]),
            )
    except ImportError:
        _not_installed("apprise")
        return False
    except Exception as error:  # the text of a foreign error may hold the address
        log.error("notification_failed", channel="apprise", error=type(error).__name__)
        return False
    if not sent:
        log.error("notification_failed", channel="apprise", error="not every address took it")
    return bool(sent)


class Sentry:
    """A client of its own: what the program does with Sentry itself is left alone."""

    def __init__(self, settings: Settings | None) -> None:
        self._settings = settings
        self._client: Any = None
        self._lock = threading.Lock()

    @property
    def is_wanted(self) -> bool:
        """Whether SENTRY_DSN is set."""
        return (self._settings or get_settings()).sentry_dsn is not None

    def forward(self, error: BaseException, tally: Tally) -> None:
        """Queue an error, as Atlas groups it. Never raises; Sentry's own thread sends it."""
        try:
            from sentry_sdk.utils import event_from_exception

            client = self._open()
            event, hint = event_from_exception(error, client_options=client.options)
            event["fingerprint"] = [tally.fingerprint]
            event["level"] = _SENTRY_LEVELS[tally.level]
            event["extra"] = {**tally.context, "times": tally.count}
            client.capture_event(event, hint)
        except ImportError:
            _not_installed("sentry")
        except Exception as failure:
            log.error("error_not_forwarded", error=type(failure).__name__)

    def close(self) -> None:
        """Give what is queued a moment, and end the client."""
        with self._lock, contextlib.suppress(Exception):
            client, self._client = self._client, None
            if client is not None:
                client.close(timeout=_SENTRY_SECONDS)

    def _open(self) -> Any:
        with self._lock:
            if self._client is None:
                import sentry_sdk

                dsn = (self._settings or get_settings()).sentry_dsn
                self._client = sentry_sdk.Client(
                    dsn=dsn.get_secret_value() if dsn is not None else None,
                    default_integrations=False,
                    auto_enabling_integrations=False,
                    include_local_variables=False,
                    before_send=lambda event, hint: _redacted(event),
                )
            return self._client


def _redacted(value: Any) -> Any:
    """``value`` with every text in it as `plain` makes it."""
    if isinstance(value, Mapping):
        return {name: _redacted(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_redacted(one) for one in value]
    return plain(value) if isinstance(value, str) else value


def _not_installed(extra: str) -> None:
    log.error(
        "notification_extra_missing", extra=extra, hint=f"pip install pleiades-atlas[{extra}]"
    )
