"""Writes to a dataset repository, each call alone, in a process of its own.

Usage: python -m tests.support.children.spool_child HUB_URL HOME SECONDS FIRST COUNT. Tells each number on
stdout once its document and its row were taken; then ends, as a program does. SECONDS is HF_BATCH_SECONDS.
"""

from __future__ import annotations

import sys
from pathlib import Path

from atlas.config import Settings
from atlas.vault import HuggingFaceVault
from tests.support import places  # noqa: F401  # sets what the client reads at import
from tests.support.logs import log_to_stderr
from tests.support.servers import hub_server


def vault_of(url: str, home: Path, seconds: float, commits: int = 1_000_000) -> HuggingFaceVault:
    """A vault as the settings make it; ``commits`` an hour."""
    settings = Settings(hf_batch_seconds=seconds, hf_commits_per_hour=commits, atlas_home=home)
    return HuggingFaceVault(
        hub_server.REPO, hub_server.TOKEN, "run", endpoint=url, settings=settings
    )


def row(number: int) -> dict[str, object]:
    """A sample of its own hour."""
    moment = f"2026-01-{1 + number // 24:02}T{number % 24:02}:00:00Z"
    return {"video_id": f"v{number}", "timestamp": moment, "views": number}


def main() -> None:
    log_to_stderr()
    url, home, seconds, first, count = sys.argv[1:]
    vault = vault_of(url, Path(home), float(seconds))
    for number in range(int(first), int(first) + int(count)):
        vault.store_json(f"d/{number}.json", number)
        vault.append_metrics([row(number)])
        print(number, flush=True)


if __name__ == "__main__":
    main()
