"""What Atlas exports, with signatures and docstrings: the snapshot of it, and the page."""

from __future__ import annotations

import enum
import importlib
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

#: Modules that programs may import from, with what each is for.
PUBLIC = {
    "atlas": "The names that most programs need; each resolves on first use.",
    "atlas.config": "Settings.",
    "atlas.errors": "The error tree.",
    "atlas.types": "Enumerations, records and ports.",
    "atlas.db": "PostgreSQL.",
    "atlas.adapters.maia": "Data access for agents.",
    "atlas.adapters.maia_ghost": "Sampling schedules for agents.",
    "atlas.adapters.maia_adaptive_scheduling": "Sampling schedules, under a later name.",
    "atlas.adapters.rows": "The rows that `MaiaDAO` returns and takes.",
    "atlas.scheduling": "Work with leases that renew themselves, and policies.",
    "atlas.vault": "Documents and metrics.",
    "atlas.archive": "From hot to cold, and back.",
    "atlas.reader": "Both tiers as one, or the vault alone.",
    "atlas.sync": "Blocking calls for notebooks and scripts.",
    "atlas.keys": "API keys.",
    "atlas.utils": "What agents use: keys, retries, id checks, the health check.",
    "atlas.retry": "Trying again.",
    "atlas.events": "Events.",
    "atlas.notifications": "Discord.",
    "atlas.logging": "Logging of the command line.",
    "atlas.logging.events": "The names of logged events.",
}


@dataclass(frozen=True, slots=True)
class Name:
    """An exported name: ``members`` are the public methods and attributes of a class."""

    name: str
    kind: str
    signature: str
    doc: str
    members: tuple[Name, ...] = ()


def names(module: str) -> Iterator[Name]:
    """What the module exports, in the order of its ``__all__``."""
    home = importlib.import_module(module)
    for name in home.__all__:
        yield describe(name, getattr(home, name))


def describe(name: str, value: Any) -> Name:
    """One name."""
    if inspect.isclass(value):
        made = "" if issubclass(value, enum.Enum) or _is_typed_dict(value) else _signature(value)
        return Name(name, "class", made, _own_doc(value), tuple(_members(value)))
    if inspect.isroutine(value):
        kind = "async def" if inspect.iscoroutinefunction(value) else "def"
        return Name(name, kind, _signature(value), inspect.getdoc(value) or "")
    if inspect.ismodule(value):
        value = getattr(value, name)  # the default object, which the module answers for
    return Name(name, "object", f": {type(value).__name__}", "")


def _members(value: type) -> Iterator[Name]:
    if issubclass(value, enum.Enum):
        for one in value:
            yield Name(one.name, "value", f" = {one.value!r}", "")
        return
    if _is_typed_dict(value) or issubclass(value, tuple):
        for name, kind in inspect.get_annotations(value).items():
            yield Name(name, "field", f": {getattr(kind, '__forward_arg__', kind)}", "")
        return
    found: dict[str, Any] = {}
    for cls in reversed(value.__mro__):
        if cls.__module__.split(".")[0] == "atlas":
            found.update(vars(cls))
    for name, one in sorted(found.items()):
        if name.startswith("_"):
            continue
        one = getattr(one, "__func__", one)  # of a class method
        if isinstance(one, property):
            returns = one.fget and inspect.get_annotations(one.fget).get("return", "")
            yield Name(name, "property", f": {returns}", inspect.getdoc(one) or "")
        elif inspect.isroutine(one):
            kind = "async def" if inspect.iscoroutinefunction(one) else "def"
            yield Name(name, kind, _signature(one), inspect.getdoc(one) or "")


def _is_typed_dict(value: type) -> bool:
    return issubclass(value, dict) and hasattr(value, "__total__")


def _signature(value: Any) -> str:
    try:
        found = inspect.signature(value)
    except (TypeError, ValueError):
        return "(...)"
    if "values" in found.parameters or hasattr(value, "model_fields"):
        return "(**values)"
    parameters = []
    for one in found.parameters.values():
        # an address of memory is no part of a default
        default = ... if " at 0x" in repr(one.default) else one.default
        parameters.append(one.replace(default=default, annotation=_Written.of(one.annotation)))
    returns = _Written.of(found.return_annotation)
    return str(found.replace(parameters=parameters, return_annotation=returns))


class _Written:
    """An annotation as it stands in the code, without quotes."""

    def __init__(self, text: str) -> None:
        self.text = text

    @classmethod
    def of(cls, annotation: Any) -> Any:
        return cls(annotation) if isinstance(annotation, str) else annotation

    def __repr__(self) -> str:
        return self.text


def _own_doc(value: type) -> str:
    return inspect.cleandoc(value.__dict__.get("__doc__") or "")


def snapshot() -> str:
    """Every exported signature, a line each."""
    lines = []
    for module in PUBLIC:
        for one in names(module):
            lines.append(f"{module}.{one.name} {one.kind}{one.signature}")
            members = (
                () if module == "atlas" else one.members
            )  # they stand where the class is at home
            lines += [f"{module}.{one.name}.{m.name} {m.kind}{m.signature}" for m in members]
    return "\n".join(lines) + "\n"


def page() -> str:
    """docs/api-reference.md."""
    parts = [
        "<!-- made by `make docs` from the docstrings -->",
        "# API reference",
        "Every name that programs may rely on. What is not here may change at any time; what is here changes "
        "only as [the policy for changes](contributing.md) says.",
        "\n".join(
            f"- [`{module}`](#{module.replace('.', '')}): {text}" for module, text in PUBLIC.items()
        ),
    ]
    for module, text in PUBLIC.items():
        parts += [f"## {module}", inspect.getdoc(importlib.import_module(module)) or text]
        for one in names(module):
            if module == "atlas":
                parts.append(
                    f"- `{one.name}`{'' if one.kind != 'object' else f'`{one.signature}`'}"
                )
                continue
            parts += [
                f"### {one.name}",
                f"```text\n{one.kind} {one.name}{one.signature}\n```",
                one.doc,
            ]
            parts += [_member(member) for member in one.members]
    return "\n\n".join(part for part in parts if part).replace("\n\n- `", "\n- `") + "\n"


def _member(member: Name) -> str:
    title = f"**`{member.kind} {member.name}{member.signature}`**"
    return f"{title}\n\n{member.doc}" if member.doc else f"- `{member.name}{member.signature}`"
