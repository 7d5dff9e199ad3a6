"""Notifications through Discord webhooks, and errors that are tracked; see docs/notifications.md."""

from atlas.notifications.discord import Notifier, notifier
from atlas.notifications.message import build_message
from atlas.types import AlertChannel, AlertLevel

__all__ = ["AlertChannel", "AlertLevel", "Notifier", "build_message", "notifier"]
