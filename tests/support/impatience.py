"""Whoever would wait before another try tries at once: tests of what follows need not wait for it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from unittest import mock


@contextmanager
def no_pauses() -> Iterator[None]:
    """No client pauses between two tries of a request."""
    import gcsfs.retry
    import huggingface_hub.utils._http as hub_http

    async def at_once(seconds: float) -> None:
        pass

    clock = SimpleNamespace(**{**vars(time), "sleep": lambda seconds: None})
    with (
        mock.patch.object(gcsfs.retry, "asyncio", SimpleNamespace(sleep=at_once)),
        mock.patch.object(hub_http, "time", clock),
    ):
        yield
