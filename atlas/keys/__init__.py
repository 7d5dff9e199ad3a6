"""API keys: which one to use, what is known of each, and requests that move on when one is spent."""

from __future__ import annotations

from atlas.keys.accounting.accounts import Accounts, KeyStatus
from atlas.keys.executor import HydraExecutor, execute_youtube_request_async
from atlas.keys.refusals import YouTubeAPIError
from atlas.keys.ring import KeyRing

__all__ = [
    "Accounts",
    "HydraExecutor",
    "KeyRing",
    "KeyStatus",
    "YouTubeAPIError",
    "execute_youtube_request_async",
]
