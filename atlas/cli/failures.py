"""What a failure looks like: two lines for people, one JSON document for programs, and an exit code."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import typer

from atlas.cli.output import err
from atlas.errors import NO_SPACE, ArchiverBusy, AtlasError, ConfigurationError, InvalidInput

__all__ = ["EXIT_CODES", "Failure", "exit_code", "explain", "guard", "show_tracebacks"]

EXIT_CODES = (
    "Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 3 another archiver is at work, "
    "130 interrupted."
)
_INTERRUPTED = 130
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}

#: typer brings a click of its own, which has no public name for it.
_UsageError: Any = typer.BadParameter.__mro__[1]

_debug = False


@dataclass(frozen=True, slots=True)
class Failure:
    """What is shown of a failure. ``type`` is the class of the error."""

    type: str
    message: str
    hint: str | None
    code: int


def show_tracebacks(wanted: bool) -> None:
    """Whether a failure that was foreseen shows where it comes from, too."""
    global _debug
    _debug = wanted


def exit_code(error: AtlasError) -> int:
    """The exit code for an error of the tree."""
    if isinstance(error, ArchiverBusy):
        return 3
    return 2 if isinstance(error, ConfigurationError | InvalidInput) else 1


def explain(error: BaseException) -> Failure | None:
    """What to show of an error; None for one that nobody foresaw."""
    kind = type(error).__name__
    match error:
        case AtlasError():
            return Failure(kind, error.message, error.hint, exit_code(error))
        case _UsageError():
            name = error.ctx.command_path if error.ctx else "atlas"
            return Failure(kind, error.format_message(), f"see `{name} --help`", 2)
        case typer.Abort():
            return Failure(kind, "not confirmed: nothing was changed", "--yes does not ask", 1)
        case KeyboardInterrupt():
            kept = "what was finished is kept, and running the command again goes on from there"
            return Failure("Interrupted", "interrupted", kept, _INTERRUPTED)
        case OSError() if error.errno is not None:
            where = error.filename or "standard output or a temporary file"
            message = f"{os.fsdecode(where)}: {error.strerror}"
            if error.errno in NO_SPACE:
                hint = "free space and run the command again: what was finished is kept"
                return Failure(kind, message, hint, 1)
            denied = "check who owns it, and ATLAS_HOME" if error.errno in _DENIED else None
            return Failure(kind, message, denied, 1)
    return None


def guard(run: Callable[[], object], arguments: Sequence[str]) -> int:
    """Run the program and return its exit code; a failure is shown as the arguments ask for."""
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    as_json = "--json" in options
    try:
        code = run()
        sys.stdout.flush()
        if code == _INTERRUPTED:  # typer makes an exit of it
            raise KeyboardInterrupt
        return code if isinstance(code, int) else 0
    except BrokenPipeError:
        _drop_output()  # the reader of a pipe has seen enough
        return 1
    except (Exception, KeyboardInterrupt) as error:
        if type(error).__name__ == "NoArgsIsHelpError" and not as_json:
            err.print(str(error), soft_wrap=True)
            return 2
        failure = explain(error)
        if _debug and failure is not None and failure.code != _INTERRUPTED:
            raise
        if failure is None:
            err.print(traceback.format_exc(), soft_wrap=True)
            hint = "standard error says where; please report it"
            failure = Failure(type(error).__name__, "an error that was not foreseen", hint, 1)
        _show(failure, as_json=as_json)
        return failure.code


def _show(failure: Failure, *, as_json: bool) -> None:
    if as_json:
        facts = asdict(failure)
        del facts["code"]
        with contextlib.suppress(OSError):  # standard output may be what failed
            print(json.dumps({"error": facts}, ensure_ascii=False, indent=2), flush=True)
            return
    err.print(f"error: {failure.message}", soft_wrap=True)
    if failure.hint:
        err.print(f"hint: {failure.hint}", soft_wrap=True)
    _drop_output()


def _drop_output() -> None:
    """Let the interpreter's last flush of standard output, at its end, find nothing that can fail."""
    try:
        sys.stdout.flush()
    except OSError:
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
