"""Fixtures of the integration tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.cli import Run


@pytest.fixture
def atlas(tmp_path: Path) -> Run:
    """Runs ``atlas ARGS`` in ``tmp_path`` with the test's environment and what is given on top."""

    def run(*arguments: str, **variables: str | None) -> subprocess.CompletedProcess[str]:
        environment = {k: v for k, v in {**os.environ, **variables}.items() if v is not None}
        return subprocess.run(
            [sys.executable, "-c", "from atlas.cli.main import main; main()", *arguments],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=environment | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            timeout=120,
            check=False,
        )

    return run
