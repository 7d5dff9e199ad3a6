"""The pages that are made from the code: ``make docs`` writes them, a test says when they are stale."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]


def logging_page() -> str:
    """docs/logging.md: what Atlas logs."""
    from atlas.log_events import LOG_EVENTS

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


#: File, and what makes its text.
PAGES: dict[str, Callable[[], str]] = {"docs/logging.md": logging_page}


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
