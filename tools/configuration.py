"""The settings as pages: docs/configuration.md, and ENV.example."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from pydantic import SecretStr
from pydantic_core import PydanticUndefined

from atlas.config import Settings

ROOT = Path(__file__).parents[1]

#: What ENV.example shows for what has no default.
EXAMPLES = {
    "DATABASE_URL": "postgresql://user:password@localhost:5432/atlas",
    "ATLAS_HOME": "~/.local/share/atlas",
    "HF_REPO_ID": "username/repo-name",
    "HF_TOKEN": "hf_xxxxxxxxxxxxx",
    "GCS_BUCKET_NAME": "your-bucket",
    "GOOGLE_APPLICATION_CREDENTIALS": "/path/to/key.json",
    "YOUTUBE_API_KEY_POOL_JSON": """'["key1","key2","key3"]'""",
    "EVENT_BUS_WEBHOOK_URL": "https://your-webhook.example",
}
#: The one line that is no comment: a database is what every machine needs.
NEEDED = "DATABASE_URL"


@dataclass(frozen=True, slots=True)
class Setting:
    """A setting as the class declares it; ``group`` is the heading it stands under."""

    variable: str
    group: str
    text: str
    takes: str
    default: str


def settings() -> Iterator[Setting]:
    """Every field, in order, with its comment (``#:`` above, or a text below) and its group."""
    source = textwrap.dedent(inspect.getsource(Settings))
    lines, group = source.splitlines(), ""
    (node,) = ast.parse(source).body
    assert isinstance(node, ast.ClassDef)
    for at, one in enumerate(node.body):
        if not isinstance(one, ast.AnnAssign) or not isinstance(one.target, ast.Name):
            continue
        if one.target.id not in Settings.model_fields:
            continue
        above, line = [], one.lineno - 2
        while line >= 0 and lines[line].strip().startswith("#"):
            text = lines[line].strip()
            if text.startswith("# -- "):
                group = text.removeprefix("# -- ")
            else:
                above.insert(0, text.removeprefix("#:").strip())
            line -= 1
        below = node.body[at + 1] if at + 1 < len(node.body) else None
        if not above and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            above = [str(below.value.value)]
        yield _setting(one.target.id, group, " ".join(" ".join(above).split()))


def _setting(field: str, group: str, text: str) -> Setting:
    info = Settings.model_fields[field]
    default: Any = info.default
    if default is PydanticUndefined or default is None:
        shown = ""
    elif isinstance(default, bool):
        shown = str(default).lower()
    elif field == "hot_max_bytes":
        shown = f"{default // 1_000_000}MB"
    else:
        shown = f"{default:g}" if isinstance(default, float) else str(default)
    return Setting(field.upper(), group, text, _takes(info.annotation, info.metadata), shown)


def _takes(annotation: Any, metadata: list[Any]) -> str:
    kinds = [one for one in (get_args(annotation) or (annotation,)) if one is not type(None)]
    if any(isinstance(one, type) and issubclass(one, SecretStr) for one in kinds):
        return "text, secret"
    words: list[str] = []
    for kind in kinds:
        choices = get_args(kind) or ((kind,) if not isinstance(kind, type) else ())
        words += [f"`{one}`" for one in choices]
    if not words:
        names = {
            "bool": "`true` or `false`",
            "int": "whole number",
            "float": "number",
            "Path": "path",
        }
        names |= {"ByteSize": "bytes, or with a unit: `400MB`"}
        words = [names.get(kind.__name__, "text") for kind in kinds]
    bounds = [
        f"{sign} {getattr(one, name):g}"
        for one in metadata
        for name, sign in _BOUNDS
        if hasattr(one, name)
    ]
    return ", ".join(words) + (f", {', '.join(bounds)}" if bounds else "")


_BOUNDS = (("ge", ">="), ("gt", ">"), ("le", "<="), ("lt", "<"))


def page() -> str:
    """docs/configuration.md."""
    parts, group = [(ROOT / "tools/configuration.md").read_text().rstrip()], ""
    for one in settings():
        if one.group != group:
            group = one.group
            parts.append(f"\n## {group}\n\n| variable | takes | default | |\n|---|---|---|---|")
        default = f"`{one.default}`" if one.default else "none"
        text = one.text.replace("``", "`").replace("|", "\\|")
        parts.append(
            f"| `{one.variable}` | {one.takes.replace('|', chr(92) + '|')} | {default} | {text} |"
        )
    return "\n".join(parts) + "\n"


def example() -> str:
    """ENV.example."""
    parts, group = [(ROOT / "tools/env_example.txt").read_text().rstrip()], ""
    for one in settings():
        if one.group != group:
            group = one.group
            parts.append(f"\n# --- {group} ".ljust(97, "-"))
        parts += textwrap.wrap(
            one.text.replace("``", ""), 96, initial_indent="# ", subsequent_indent="# "
        )
        value = one.default or EXAMPLES.get(one.variable, "")
        parts.append(f"{'' if one.variable == NEEDED else '#'}{one.variable}={value}")
    return "\n".join(parts) + "\n"
