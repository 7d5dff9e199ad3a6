"""The wheel: what is in it, and that it works where there is no checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    # hatchling is called as a build front end would call it, without fetching it anew
    code = "import sys; from hatchling.build import build_wheel; build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, str(folder)], cwd=ROOT, check=True)
    (found,) = folder.glob("pleiades_atlas-*.whl")
    return found


def test_the_wheel_holds_the_package_with_its_migrations_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    top = {name.split("/")[0] for name in names}
    assert {one for one in top if not one.endswith(".dist-info")} == {"atlas"}
    assert "atlas/py.typed" in names
    assert "atlas/_migrations/env.py" in names
    assert any(name.startswith("atlas/_migrations/versions/20") for name in names)
    assert not [name for name in names if "__pycache__" in name]


def test_an_installed_wheel_migrates_a_database_from_anywhere(
    wheel: Path, empty_database_url: str, tmp_path: Path
) -> None:
    folder = tmp_path / "clean"
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"),
            *("--no-deps", "--no-index", "--disable-pip-version-check", str(wheel)),
        ],
        check=True,
    )
    # the dependencies are those of this environment, all but the checkout itself: what a .pth names
    # is searched, but its own .pth files, an editable install's among them, are not obeyed
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")

    def run(*command: str) -> str:
        done = subprocess.run(
            command,
            cwd=tmp_path,
            env={
                "PATH": os.environ["PATH"],
                "DATABASE_URL": empty_database_url,
                "ENV": "test",
                "ATLAS_HOME": str(tmp_path / "home"),
            },
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert run(str(python), "-c", "import atlas; print(atlas.__file__)").startswith(str(site))
    atlas = str(folder / "bin" / "atlas")
    assert run(atlas, "--version") == f"atlas {wheel.name.split('-')[1]}\n"
    for command in (("db", "upgrade"), ("db", "check"), ("status",)):
        run(atlas, *command)
