"""The pages that are made from the code: ``make docs`` writes them, a test says when they are stale."""

from __future__ import annotations

import functools
import inspect
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import black

from tools import configuration, json_page, pictures, surface

ROOT = Path(__file__).parents[1]


def logging_page() -> str:
    """docs/logging.md: what Atlas logs."""
    from atlas.logging.events import LOG_EVENTS

    rows = []
    for name, one in sorted(LOG_EVENTS.items()):
        fields = " ".join(f"`{field}`" for field in one.fields.split())
        rows.append(f"| `{name}` | {one.level} | {fields} | {one.meaning} |")
    return (
        (ROOT / "tools/logging.md").read_text().rstrip()
        + "\n\n| event | level | fields | what happened |\n|---|---|---|---|\n"
        + "\n".join(rows)
        + "\n"
    )


def events_page() -> str:
    """docs/events.md: what Atlas emits."""
    from atlas.events.catalogue import CATALOGUE

    rows = []
    for name, one in sorted(CATALOGUE.items()):
        fields = "; ".join(f"`{field}`: {said}" for field, said in one.fields.items())
        rows.append(f"| `{name}` | {one.meaning} | {one.entity} | {fields} |")
    return (
        (ROOT / "tools/events.md").read_text().rstrip()
        + "\n\n| type | what happened | `entity_id` | payload |\n|---|---|---|---|\n"
        + "\n".join(rows)
        + "\n"
    )


def setting_names() -> str:
    """atlas/config/names.py: the variables' names as typed attributes of the settings."""
    from atlas.config import Settings

    names = {**{field: field for field in Settings.model_fields}, "hf_dataset_id": "hf_repo_id"}
    kinds = {
        name: annotation(Settings.model_fields[field].annotation) for name, field in names.items()
    }
    for name in ("api_keys", "key_rings"):
        getter = getattr(Settings, name).fget
        kinds[name] = annotation(inspect.get_annotations(getter, eval_str=True)["return"])
    lines = []
    for name, kind in kinds.items():
        lines += ["", "        @property", f"        def {name.upper()}(self) -> {kind}: ..."]
    text = (ROOT / "tools/setting_names.txt").read_text().rstrip() + "\n".join(lines) + "\n"
    return black.format_str(text, mode=black.Mode(line_length=100))


def annotation(kind: Any) -> str:
    """A type as it is written."""
    text = kind.__name__ if isinstance(kind, type) and not get_args(kind) else str(kind)
    text = re.sub(r"\b(?:typing|pathlib\._local|pathlib|pydantic\.types|pydantic)\.", "", text)
    return re.sub(r"Optional\[(.*)\]$", r"\1 | None", text).replace("'", '"')


#: File, and what makes its text.
PAGES: dict[str, Callable[[], str]] = {
    "atlas/config/names.py": setting_names,
    "ENV.example": configuration.example,
    "docs/api-reference.md": surface.page,
    "docs/configuration.md": configuration.page,
    "docs/json.md": json_page.page,
    "docs/logging.md": logging_page,
    "docs/events.md": events_page,
    "tests/public_api.txt": surface.snapshot,
    **{file: functools.partial(pictures.picture, name) for file, name in pictures.PICTURES.items()},
}


def stale() -> list[str]:
    """The files whose text is not what the code makes."""
    return [
        name
        for name, make in PAGES.items()
        if not (ROOT / name).exists() or (ROOT / name).read_text() != make()
    ]


def main() -> None:
    """Write every page that is stale."""
    for name in stale():
        (ROOT / name).write_text(PAGES[name]())
        print(f"wrote {name}", file=sys.stderr)


if __name__ == "__main__":
    main()
