"""``make demo-events``: events reach a receiver that is stopped and started in between; none is lost.

The receiver is a plain HTTP server in a process of its own, without Atlas; it checks every signature.
Events are emitted while a worker (``atlas events deliver``) delivers them.
"""

from __future__ import annotations

import asyncio
import base64
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from atlas.config import reset_settings
from atlas.db import Database
from atlas.db.administration.migrations import upgrade
from atlas.events import EventBus

EVENTS = 600
ENDPOINT = "demo"


def start_receiver(port: int, secret: str, path: Path) -> subprocess.Popen[str]:
    receiver = subprocess.Popen(
        [sys.executable, "-m", "tools.event_receiver", str(port), secret, str(path)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert receiver.stdout is not None
    receiver.stdout.readline()
    return receiver


def received(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []


async def emit(bus: EventBus, count: int) -> None:
    for number in range(count):
        await bus.emit("demo.tick", str(number), {"number": number})


async def wait_until(path: Path, count: int, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if len(set(received(path)) - {"refused"}) >= count:
            break
        await asyncio.sleep(0.1)


async def demo(folder: Path) -> bool:
    secret = "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    path = folder / "received"
    database = Database()
    await upgrade(database)
    bus = EventBus(database)
    if any(one.name == ENDPOINT for one in await bus.endpoints.list()):
        await bus.endpoints.remove(ENDPOINT)
    url = f"http://127.0.0.1:{port}/hook"
    await bus.endpoints.add(ENDPOINT, url, secret=secret, patterns=["demo.*"])
    receiver = start_receiver(port, secret, path)
    worker = subprocess.Popen(  # noqa: ASYNC220 - nothing else runs in this loop
        [sys.executable, "-m", "atlas", "events", "deliver"]
    )
    try:
        await emit(bus, EVENTS // 3)
        await wait_until(path, EVENTS // 3, 60)
        print(f"{len(received(path))} received; the receiver is stopped now")
        receiver.terminate()
        receiver.wait()
        await emit(bus, EVENTS // 3)
        await asyncio.sleep(2)
        endpoint = next(one for one in await bus.endpoints.list() if one.name == ENDPOINT)
        print(f"the endpoint is {endpoint.state}: {endpoint.reason}; the receiver is started again")
        receiver = start_receiver(port, secret, path)
        await emit(bus, EVENTS // 3)
        await wait_until(path, EVENTS, 90)
    finally:
        worker.send_signal(signal.SIGTERM)
        worker.wait()
        receiver.terminate()
        receiver.wait()
        await bus.endpoints.remove(ENDPOINT)
        await database.close()
    got = received(path)
    refused = got.count("refused")
    ids = set(got) - {"refused"}
    print(
        f"{EVENTS} emitted, {len(ids)} received with a right signature, "
        f"{len(got) - refused - len(ids)} repeated, {refused} refused, {EVENTS - len(ids)} lost"
    )
    return len(ids) == EVENTS and not refused


def main() -> None:
    os.environ.setdefault("ENV", "dev")
    with tempfile.TemporaryDirectory(prefix="atlas-demo-events-") as folder:
        os.environ.setdefault("ATLAS_HOME", folder)
        reset_settings()
        good = asyncio.run(demo(Path(folder)))
    raise SystemExit(0 if good else 1)


if __name__ == "__main__":
    main()
