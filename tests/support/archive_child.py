"""Runs an archiver or a janitor in a process of its own, which may kill itself at a named step.

Usage: python -m tests.support.archive_child DATABASE_URL VAULT_FOLDER JOB [EVENT]
JOB is ``archive`` or ``janitor``; with EVENT the process sends itself SIGKILL when that event is logged.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import structlog

from atlas.archive import Archiver
from atlas.db import Database
from atlas.janitor import Janitor
from atlas.vault import LocalVault


def main(url: str, folder: str, job: str, event: str | None = None) -> None:
    def watch(_: Any, __: str, facts: dict[str, Any]) -> dict[str, Any]:
        if facts.get("event") == event:
            os.kill(os.getpid(), signal.SIGKILL)
        return facts

    structlog.configure(
        processors=[watch, structlog.processors.JSONRenderer()],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )

    async def work() -> None:
        database, vault = Database(url), LocalVault(Path(folder))
        try:
            if job == "archive":
                await Archiver(database, vault).run(timedelta(days=7))
            else:
                await Janitor(database, vault).run()
        finally:
            await database.close()

    asyncio.run(work())


if __name__ == "__main__":
    main(*sys.argv[1:])
