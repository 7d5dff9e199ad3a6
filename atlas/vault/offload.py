"""Vault calls off the event loop, on a bounded pool of their own."""

from __future__ import annotations

import asyncio
import contextvars
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from atlas.forks import renew_in_child

P = ParamSpec("P")
R = TypeVar("R")

#: Blocking calls at the same time; more wait for their turn. A vault that hangs cannot take the threads
#: that the program uses for other things.
AT_ONCE = 16


@functools.cache
def _pool() -> ThreadPoolExecutor:
    pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="atlas-offload")
    renew_in_child(pool, lambda _: _pool.cache_clear())
    return pool


async def offload(function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
    """`asyncio.to_thread` on that pool. A cancelled caller goes on at once, the call ends by itself."""
    context = contextvars.copy_context()
    call = functools.partial(context.run, function, *args, **kwargs)
    return await asyncio.get_running_loop().run_in_executor(_pool(), call)
