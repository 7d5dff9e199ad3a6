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
    (site,) = folder.glob("lib/python*/site-packages")
    with zipfile.ZipFile(wheel) as content:
        content.extractall(site)
    # the dependencies are those of this environment, all but the checkout itself
    theirs = sysconfig.get_paths()["purelib"]
    (site / "dependencies.pth").write_text(theirs + "\n")
    run = [str(folder / "bin" / "python"), "-c", "from atlas.cli.main import main; main()"]
    environment = {"PATH": os.environ["PATH"], "DATABASE_URL": empty_database_url, "ENV": "test"}
    environment["ATLAS_HOME"] = str(tmp_path / "home")
    where = subprocess.run(
        [run[0], "-c", "import atlas; print(atlas.__file__)"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert where.stdout.startswith(str(site))
    for command in (["db", "upgrade"], ["db", "check"], ["status"]):
        done = subprocess.run(
            [*run, *command],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
