"""Whoever would wait before another try tries at once: tests of what follows need not wait for it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from unittest import mock

import atlas.retry

#: More failures than anybody tries again.
FOR_EVER = 99


@contextmanager
def no_pauses() -> Iterator[None]:
    """Neither Atlas nor the Hub's client pauses between two tries of a request."""
    import huggingface_hub.utils._http as hub_http

    clock = SimpleNamespace(**{**vars(time), "sleep": lambda seconds: None})
    with (
        mock.patch.object(atlas.retry, "block", return_value=None),
        mock.patch.object(hub_http, "time", clock),
    ):
        yield
