"""What every command pays before it begins."""

from __future__ import annotations

import subprocess
import sys


def test_the_command_line_starts_without_arrow_and_sqlalchemy() -> None:
    code = (
        "import sys, atlas.cli.main; print({'pyarrow', 'sqlalchemy', 'aiohttp'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_a_health_check_asks_without_sqlalchemy() -> None:
    """A container waits for it: importing SQLAlchemy takes half of the second that it has."""
    code = "import sys, atlas.db.sessions, atlas.logging; print('sqlalchemy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
