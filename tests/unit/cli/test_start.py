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
