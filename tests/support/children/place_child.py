"""Works on a vault in a process of its own.

Usage: python -m tests.support.children.place_child PLACE JOB [ARGUMENT ...]

PLACE is a `Place` as JSON. ``create COUNT``: after a line on standard input, creates ``race/0`` and so on
with its process id, telling each that it won. ``append FIRST COUNT``: appends that many rows one by one.
``upload FILE``: creates ``large`` from it. ``stream FILE``: stores it, and reads it back by pieces, in both
ways there are; tells the peak of the process's memory in MB before and after, and the file's SHA-256.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import sys
from pathlib import Path
from typing import BinaryIO

from atlas.errors import ObjectExists
from atlas.vault import Vault
from tests.support.places import Place

#: Bytes read at once.
PIECE = 8 << 20


def create(vault: Vault, count: str) -> None:
    vault.store.stat("warm-up")
    print("ready", flush=True)
    sys.stdin.readline()
    for number in range(int(count)):
        try:
            vault.store.put_bytes(f"race/{number}", b"%d" % os.getpid(), overwrite=False)
        except ObjectExists:
            continue
        print(number, flush=True)


def append(vault: Vault, first: str, count: str) -> None:
    for number in range(int(first), int(first) + int(count)):
        vault.append_metrics(
            [{"video_id": f"v{number}", "timestamp": "2026-01-15T10:00:00Z", "views": number}]
        )


def upload(vault: Vault, file: str) -> None:
    vault.store.put_files([("large", Path(file))])


def stream(vault: Vault, file: str) -> None:
    vault.store_binary("small", b"x")  # what is imported at the first use is no part of the object
    hashed(vault, "small")
    before = peak()
    with open(file, "rb") as source:
        vault.store_binary("one", source)
    vault.store.put_files([("two", Path(file))])
    sums = [hashed(vault, key) for key in ("one", "two")]
    print(json.dumps({"before": before, "after": peak(), "sums": sums}))


def hashed(vault: Vault, key: str) -> str:
    digest = hashlib.sha256()
    source: BinaryIO | None = vault.store.open(key)
    assert source is not None
    with source:
        while piece := source.read(PIECE):
            digest.update(piece)
    return digest.hexdigest()


def peak() -> float:
    """The most memory this process has had, in MB."""
    status = Path("/proc/self/status")
    if (
        status.exists()
    ):  # elsewhere in Linux the peak of the process that started this one counts too
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)


if __name__ == "__main__":
    where, job, *arguments = sys.argv[1:]
    globals()[job](Place.read(where).vault(), *arguments)
