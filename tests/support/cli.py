"""The program ``atlas`` as tests run it: a process for each command, forked from one that is warm."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from tools import json_page

#: Arguments as strings, environment variables as keywords.
Run = Callable[..., subprocess.CompletedProcess[str]]

_WARM = Path(__file__).parent / "children" / "warm_child.py"

#: Seconds that a command may take.
PATIENCE = 120.0


class Program:
    """Runs commands; `close` ends what waits for them. Importing takes longer than most commands do."""

    def __init__(self) -> None:
        self._warm: subprocess.Popen[str] | None = None

    def run(
        self, arguments: list[str], environment: dict[str, str], folder: Path
    ) -> subprocess.CompletedProcess[str]:
        """What the command printed, and its exit code. Raises `TimeoutExpired`."""
        with tempfile.TemporaryDirectory() as place:
            printed = {name: Path(place, name) for name in ("stdout", "stderr")}
            for path in printed.values():
                path.touch()
            files = {name: str(path) for name, path in printed.items()}
            wanted = {"arguments": arguments, "environment": environment, "folder": str(folder)}
            code = self._ask(wanted | files)
            stdout, stderr = (path.read_text() for path in printed.values())
        if "--json" in arguments and stdout:
            document = json.loads(stdout)
            failed = isinstance(document, dict) and "error" in document
            schema = json_page.FAILURE if failed else json_page.schema_of(arguments)
            assert not json_page.complaints(document, schema), "docs/json.md says otherwise"
        return subprocess.CompletedProcess(["atlas", *arguments], code, stdout, stderr)

    def close(self) -> None:
        """End the process that waits for commands."""
        if self._warm is not None:
            with self._warm as ended:
                assert ended.stdin is not None
                ended.stdin.close()
            self._warm = None

    def _ask(self, wanted: dict[str, object]) -> int:
        warm = self._warm = self._warm or _started()
        assert warm.stdin is not None and warm.stdout is not None
        print(json.dumps(wanted), file=warm.stdin, flush=True)
        if not select.select([warm.stdout], [], [], PATIENCE)[0]:
            os.killpg(warm.pid, signal.SIGKILL)
            self.close()
            raise subprocess.TimeoutExpired(str(wanted["arguments"]), PATIENCE)
        return int(warm.stdout.readline())


@contextlib.contextmanager
def program() -> Iterator[Program]:
    """The program for as long as tests need it."""
    made = Program()
    try:
        yield made
    finally:
        made.close()


def _started() -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, _WARM],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # an interrupt of the tests is not for it
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
