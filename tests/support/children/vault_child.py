"""Works on a local vault in a process of its own, which may kill itself at a named step.

Usage: python -m tests.support.children.vault_child VAULT_FOLDER HOME JOB [ARGUMENT]

``append EVENT``: appends row after row, telling each on stdout once the call has returned; SIGKILL to itself
at the third log line of that event. ``flush``: delivers what waits. ``count TIMES``: raises a number by
compare-and-swap. ``write BYTES``: stores objects of that size, telling each. ``full BYTES``: appends and
stores while no file may grow beyond BYTES. ``denied``: does both as a user who may only read.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

from atlas.errors import VaultError
from atlas.vault import LocalVault
from tests.support.logs import log_to_stderr


def append(vault: LocalVault, event: str = "") -> None:
    seen = 0

    def watch(_: Any, __: str, facts: dict[str, Any]) -> dict[str, Any]:
        nonlocal seen
        seen += facts.get("event") == event
        if seen == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return facts

    log_to_stderr(watch)
    for number in range(1_000_000):
        vault.append_metrics(
            [{"video_id": f"v{number}", "timestamp": "2026-01-15T10:00:00Z", "views": number}]
        )
        print(number, flush=True)


def flush(vault: LocalVault) -> None:
    print(vault.flush())


def count(vault: LocalVault, times: str) -> None:
    done = 0
    while done < int(times):
        before = vault.store.get_bytes("n")
        done += vault.store.compare_and_swap("n", before, b"%d" % (int(before or 0) + 1))


def write(vault: LocalVault, size: str) -> None:
    for number in range(1_000_000):
        vault.store_binary(f"large/{number % 3}", bytes([number % 256]) * int(size))
        print(number, flush=True)


def full(vault: LocalVault, size: str) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(size), int(size)))
    tell("store_binary", lambda: vault.store_binary("taken", os.urandom(3 * int(size))))
    rows = [{"video_id": os.urandom(8).hex(), "views": number} for number in range(int(size))]
    tell("append_metrics", lambda: vault.append_metrics(rows))


def denied(vault: LocalVault) -> None:
    # what is imported late, that other user may not be able to read
    vault.fetch_binary("taken")
    import pyarrow.compute  # noqa: F401

    if os.geteuid() == 0:
        os.setgid(65534)
        os.setuid(65534)
    tell("fetch_binary", lambda: vault.fetch_binary("taken"))
    tell("store_binary", lambda: vault.store_binary("taken", b"other"))
    tell("new_folder", lambda: vault.store_binary("new/folder", b"other"))
    tell("delete", lambda: vault.store.delete(["taken"]))
    tell("append_metrics", lambda: vault.append_metrics([{"video_id": "V"}]))


def tell(what: str, call: Any) -> None:
    try:
        print(what, type(call()).__name__)
    except VaultError as error:
        print(what, type(error).__name__)


if __name__ == "__main__":
    log_to_stderr()
    folder, home, job, *arguments = sys.argv[1:]
    globals()[job](LocalVault(folder, home=Path(home)), *arguments)
