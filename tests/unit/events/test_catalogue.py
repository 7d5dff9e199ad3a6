"""The catalogue of events against the code, both ways."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import atlas
from atlas.events.catalogue import CATALOGUE

ATLAS = Path(atlas.__file__).parent
ROOMS = "video|watchlist|search|archive|janitor|hydra|endpoint|events|work"
NAME = re.compile(rf"(?:{ROOMS})\.[a-z_]+")
#: Texts of that shape that are no events.
OTHERS = {"archive.md", "events.md"}


def names_in_code() -> Iterator[str]:
    for path in ATLAS.rglob("*.py"):
        if path.name == "catalogue.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            name = node.value if isinstance(node, ast.Constant) else None
            if isinstance(name, str) and NAME.fullmatch(name) and name not in OTHERS:
                yield name


def test_every_event_in_the_code_is_in_the_catalogue_and_the_other_way_round() -> None:
    assert set(names_in_code()) == set(CATALOGUE)


def test_the_upstream_names_are_there_and_everything_is_said_of_each() -> None:
    assert {
        "janitor.cycle_complete",
        "hydra.key_rotated",
        "hydra.pool_exhausted",
        "video.discovered",
    } <= set(CATALOGUE)
    assert list(CATALOGUE) == sorted(CATALOGUE)
    for name, one in CATALOGUE.items():
        assert one.meaning.endswith("."), name
        assert all(one.fields.values()), name
