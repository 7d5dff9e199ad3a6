"""What a program sees of Atlas through a type checker: mypy in strict mode, and pyright.

basedpyright is pyright in a wheel that brings its own node; the stricter rules of its own are off.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def mypy(path: Path, folder: Path) -> set[int]:
    """The lines in which mypy finds an error, with what it says printed."""
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--config-file",
        str(_mypy_settings(folder)),
    ]
    done = subprocess.run(
        [*command, "--cache-dir", str(ROOT / ".mypy_cache"), str(path)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    print(done.stdout, done.stderr)
    assert done.returncode in (0, 1)
    found = re.findall(
        rf"^{re.escape(str(path.relative_to(ROOT)))}:(\d+): error", done.stdout, re.M
    )
    assert bool(found) == (done.returncode == 1), "an error elsewhere than in the program"
    return {int(line) for line in found}


def _mypy_settings(folder: Path) -> Path:
    """A program's own: nothing but that pyarrow ships no types."""
    path = folder / "mypy.ini"
    path.write_text("[mypy]\n[mypy-pyarrow.*]\nignore_missing_imports = True\n")
    return path


def pyright(path: Path, folder: Path) -> set[int]:
    """The lines in which pyright finds an error, with what it says printed."""
    project = folder / "pyrightconfig.json"
    project.write_text(
        json.dumps(
            {
                "include": [str(path)],
                "typeCheckingMode": "standard",
                "extraPaths": [str(ROOT)],
                "reportMissingTypeStubs": False,
            }
        )
    )
    done = subprocess.run(
        [
            *(sys.executable, "-m", "basedpyright", "--outputjson"),
            *("--project", str(project), "--pythonpath", sys.executable),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (0, 1), done.stderr
    report = json.loads(done.stdout)
    found = [one for one in report["generalDiagnostics"] if one["severity"] == "error"]
    print([(one["range"]["start"]["line"] + 1, one["message"]) for one in found])
    return {one["range"]["start"]["line"] + 1 for one in found}


@pytest.mark.timeout(0)  # a machine that does other things takes long over it
@pytest.mark.parametrize("checker", [mypy, pyright])
def test_a_program_that_is_right_passes_and_every_misspelling_is_found(
    checker: Callable[[Path, Path], set[int]], tmp_path: Path
) -> None:
    assert checker(HERE / "right.py", tmp_path) == set()
    lines = (HERE / "wrong.py").read_text().splitlines()
    wrong = {number for number, line in enumerate(lines, 1) if line.endswith("# wrong")}
    assert checker(HERE / "wrong.py", tmp_path) == wrong
