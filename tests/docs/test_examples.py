"""Every Python block and every shown command of README and docs/ runs as it stands."""

from __future__ import annotations

import ast
import asyncio
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from atlas.config import reset_settings
from tests.support.cli import Run

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

#: What a page leaves to the reader's imagination.
GIVEN = {
    "events.md": "from atlas import db",
    "hydra-protocol.md": "async def search(key): ...\nasync def main(): ...",
}
#: Commands that are not run here, by their beginning, and where they are.
ELSEWHERE = {
    "make ": "the targets are run by the tests themselves, by CI and by test_the_demo_runs_twice_and_adds_up",
    "pip install": "tests/packaging installs the wheel",
    "atlas doctor": "tests/integration/cli: its exit code is that of this machine",
}


def blocks(page: Path, language: str) -> list[str]:
    """The blocks of a page in that language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.M | re.S)


WITH_PYTHON = [page for page in PAGES if blocks(page, "python")]
WITH_COMMANDS = [page for page in PAGES if blocks(page, "(?:bash|console|shell)")]


@pytest.mark.parametrize("page", WITH_PYTHON, ids=lambda page: page.name)
def test_every_python_block_of_a_page_runs_in_order(
    page: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("YOUTUBE_API_KEY_POOL_JSON", '["a-key-of-some-length"]')
    reset_settings()
    names: dict[str, object] = {"__name__": "__main__"}
    exec(GIVEN.get(page.name, ""), names)
    for number, block in enumerate(blocks(page, "python"), 1):
        flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        code = compile(block, f"{page.name}, block {number}", "exec", flags=flags)
        result = eval(code, names)
        if asyncio.iscoroutine(result):

            async def run(waiting: object = result) -> None:
                await waiting  # type: ignore[misc]  # compiled with top-level await

                from atlas import db, events

                await events.drain()
                await db.close()

            asyncio.run(run())


@pytest.mark.parametrize("page", WITH_COMMANDS, ids=lambda page: page.name)
def test_every_shown_command_of_a_page_runs_in_order(
    page: Path, database_url: str, atlas: Run, tmp_path: Path
) -> None:
    for block in blocks(page, "(?:bash|console|shell)"):
        for line in block.splitlines():
            command = line.split(" #")[0].removeprefix("$ ").strip()
            if not command or command.startswith(("#", "export ", *ELSEWHERE)):
                continue
            if command.startswith("atlas "):
                done = atlas(*shlex.split(command)[1:])
            else:
                assert command.startswith("printf "), f"{page.name}: run or explain {command!r}"
                done = subprocess.run(
                    command, shell=True, cwd=tmp_path, capture_output=True, text=True, check=False
                )
            assert done.returncode == 0, (command, done.stdout, done.stderr)


@pytest.mark.timeout(0)
def test_the_program_of_readme_passes_a_type_checker(tmp_path: Path) -> None:
    path = tmp_path / "program.py"
    path.write_text(blocks(ROOT / "README.md", "python")[0])
    command = [sys.executable, "-m", "mypy", "--strict", "--ignore-missing-imports"]
    done = subprocess.run(
        [*command, "--config-file", os.devnull, "--cache-dir", str(tmp_path), str(path)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_readme_is_short_and_every_link_leads_somewhere() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) < 120
    broken = []
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text()):
            if "://" not in target and not (page.parent / target).exists():
                broken.append(f"{page.name}: {target}")
    assert broken == []
