"""An agent of the platform as a process: plain exceptions, no bucket named, ended by SystemExit.

Arguments: the API's address, the method, how many tasks. Waits for a line or the end of its input, so that
several begin at once. Prints how many answers it had.
"""

from __future__ import annotations

import asyncio
import sys

import aiohttp

from atlas.utils import HydraExecutor, KeyRing
from tests.support.servers.quota_api import call_as_agents_do


async def main(url: str, method: str, tasks: int) -> None:
    executor = HydraExecutor(KeyRing("hunting"), agent_name="hunter")
    print("ready", flush=True)
    sys.stdin.readline()
    async with aiohttp.ClientSession() as session:

        async def make_request(key: str) -> object:
            return await call_as_agents_do(session, url, method, key)

        async def work() -> None:
            while True:
                answer = await executor.execute_async(make_request)
                print("answered" if answer is not None else "gave up", flush=True)

        await asyncio.gather(*(work() for _ in range(tasks)))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
