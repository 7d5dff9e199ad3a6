"""Logging: silent until a program asks, and every event declared with its level and fields."""

from __future__ import annotations

import ast
import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from rich.console import Console
from rich.file_proxy import FileProxy

import atlas
from atlas.cli import output
from atlas.config import Settings
from atlas.logging import configure, get_logger
from atlas.logging.events import LOG_EVENTS

ATLAS = Path(atlas.__file__).parent
LEVELS = ("debug", "info", "warning", "error", "critical", "exception")

#: Where, level, name and fields; ``**facts`` stands for fields that only running the code shows.
Call = tuple[str, str, str, tuple[str, ...]]


def calls() -> Iterator[Call]:
    """Every call of a module's ``log``."""
    for path in sorted(ATLAS.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in LEVELS
                and isinstance(node.func.value, ast.Name)
                and node.func.value.id == "log"
            ):
                (name,) = node.args
                assert isinstance(name, ast.Constant), f"{path}: an event's name is a constant"
                level = "error" if node.func.attr == "exception" else node.func.attr
                fields = tuple(one.arg or "**" for one in node.keywords if one.arg != "exc_info")
                yield f"{path.relative_to(ATLAS)}:{node.lineno}", level, name.value, fields


def test_every_event_that_is_logged_is_declared_with_its_level_and_fields() -> None:
    for where, level, name, fields in calls():
        assert name in LOG_EVENTS, f"{where}: declare {name} in atlas/logging/events.py"
        declared = LOG_EVENTS[name]
        assert level == declared.level, where
        assert set(fields) - {"**"} <= set(declared.fields.split()), where


def test_every_declared_event_and_field_is_logged_somewhere() -> None:
    found: dict[str, set[str]] = {}
    for _, _, name, fields in calls():
        found.setdefault(name, set()).update(fields)
    assert set(LOG_EVENTS) <= set(found)
    for name, fields in found.items():
        if "**" not in fields:
            assert set(LOG_EVENTS[name].fields.split()) == fields, name


def test_no_module_makes_a_logger_of_its_own() -> None:
    for path in ATLAS.rglob("*.py"):
        text = path.read_text()
        if path != ATLAS / "logging/__init__.py":
            assert "structlog" not in text.replace("structlog's", ""), path


def test_a_library_user_sees_nothing_until_asked(tmp_path: Path) -> None:
    code = """
import logging, sys
import atlas
from atlas.logging import get_logger
log = get_logger("atlas.somewhere")
def say():
    log.debug("quiet", row=1)
    log.critical("loud", row=2)
    try:
        raise ValueError("bad")
    except ValueError:
        log.exception("traced")
say()
ours = logging.getLogger("atlas")
assert [type(one) for one in ours.handlers] == [logging.NullHandler] and ours.level == 0
assert logging.getLogger().handlers == []
print("until here", flush=True)
shown = "%(name)s %(levelname)s %(message)s %(funcName)s %(event)s %(fields)s"
logging.basicConfig(level="DEBUG", format=shown)
say()
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stdout == "until here\n"
    assert done.stderr.splitlines()[:3] == [
        "atlas.somewhere DEBUG quiet row=1 say quiet {'row': 1}",
        "atlas.somewhere CRITICAL loud row=2 say loud {'row': 2}",
        "atlas.somewhere ERROR traced say traced {}",
    ]
    assert done.stderr.endswith("ValueError: bad\n")


def test_structlog_of_the_program_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    structlog.configure(processors=[structlog.processors.JSONRenderer()])
    get_logger("atlas.x").warning("event", text="two words", line="a\nb", none=None)
    assert caplog.messages == [r"event text='two words' line='a\nb' none=None"]


@pytest.mark.parametrize(("log_format", "level"), [("json", "INFO"), ("console", "ERROR")])
def test_the_command_line_logs_as_its_settings_say(
    log_format: str, level: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):  # twice is once
        configure(Settings(log_format=log_format, log_level=level))
    log = get_logger("atlas.x")
    log.info("calm", rows=1)
    try:
        raise ValueError("bad")
    except ValueError:
        log.exception("failed", level="field")
    logging.getLogger("other.library").warning("foreign %s", "text")
    lines = capsys.readouterr().err
    if log_format == "json":
        calm, failed, foreign = (json.loads(line) for line in lines.splitlines())
        assert (calm["event"], calm["level"], calm["rows"]) == ("calm", "info", 1)
        assert "ValueError: bad" in failed["exception"]
        assert (foreign["event"], foreign["logger"]) == ("foreign text", "other.library")
    else:
        assert "calm" not in lines
        assert "failed" in lines and "ValueError: bad" in lines and "foreign text" in lines


def test_a_log_line_goes_above_a_progress_display(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(terminal, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(output, "err", Console(file=terminal, force_terminal=True, width=200))
    configure(Settings(log_format="json"))
    with output.progress("working") as tell:
        tell(1, 2, "half")
        assert isinstance(sys.stderr, FileProxy)  # rich writes it above the bar
        get_logger("atlas.x").warning("in_between")
    shown = terminal.getvalue()
    (line,) = (one for one in shown.splitlines() if "in_between" in one)
    assert "half" not in line and line.endswith("}")
