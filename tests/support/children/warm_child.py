"""A process that has imported what every command of ``atlas`` needs, and forks for each one.

Reads one JSON document a line: ``arguments``, ``environment``, ``folder``, and the files that take ``stdout``
and ``stderr``. Answers with the exit code. What reads the environment when it is imported (the command
line itself, the client of the Hub) is left to the command.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import atlas.archive
import atlas.reader
import atlas.vault  # noqa: F401


def become(wanted: dict[str, Any]) -> None:
    """Make this process what a shell would have started."""
    os.environ.clear()
    os.environ.update(wanted["environment"])
    os.chdir(wanted["folder"])
    for descriptor, path in enumerate((os.devnull, wanted["stdout"], wanted["stderr"])):
        file = os.open(path, os.O_RDWR)
        os.dup2(file, descriptor)
        os.close(file)
    sys.argv = ["atlas", *wanted["arguments"]]


def serve() -> None:
    """Return in each child, ready to run its command; the parent ends with its standard input."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    for line in sys.stdin:
        if (child := os.fork()) == 0:
            become(json.loads(line))
            return
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), file=answers)
    sys.exit()


if __name__ == "__main__":
    serve()
    from atlas.cli.main import main

    main()
