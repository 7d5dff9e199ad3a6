"""docs/json.md and its schemas, made from `tools.documents`; tests compare what commands print with them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

from tools import documents


class _Schema(GenerateJsonSchema):
    """Every field of a report is printed, also one that has its default."""

    def field_is_required(self, field: Any, total: bool) -> bool:
        return field["type"] == "dataclass-field" or super().field_is_required(field, total)


def schema_of(arguments: Sequence[str]) -> dict[str, Any]:
    """The JSON schema of what the program prints for these arguments."""
    words = [one for one in arguments if not one.startswith("-")]
    found = [
        name
        for name in documents.DOCUMENTS
        for command, _, option in [name.partition(" --")]
        if words[: command.count(" ") + 1] == command.split()
        and (not option or f"--{option}" in arguments)
    ]
    return _schema(documents.DOCUMENTS[max(found, key=len)])


def _schema(kind: Any) -> dict[str, Any]:
    return TypeAdapter(kind).json_schema(mode="serialization", schema_generator=_Schema)


#: The schema of what a command prints that fails.
FAILURE = _schema(documents.Failed)


def page() -> str:
    """docs/json.md."""
    parts: dict[str, dict[str, Any]] = {}
    lines = [
        (Path(__file__).parent / "json.md").read_text().format(version=documents.VERSION).rstrip()
    ]
    for command in sorted(documents.DOCUMENTS):
        lines.append(f"\n## `atlas {command}`")
        schema = _schema(documents.DOCUMENTS[command])
        item = _name(schema.get("items", {}))
        parts |= {name: one for name, one in schema.get("$defs", {}).items() if name != item}
        lines += _described(schema)
    lines.append("\n## Parts of them")
    parts |= FAILURE["$defs"]
    for name in sorted(parts):
        lines += [f"\n### {name}", *_described(parts[name])]
    return "\n".join(lines) + "\n"


def _described(schema: dict[str, Any]) -> list[str]:
    if schema.get("type") == "array" and "properties" in (
        found := _resolved(schema["items"], schema)
    ):
        return ["\nA list of:", *_described(found)]
    if "properties" not in schema:
        return [f"\n{_kind(schema).capitalize()}."]
    required = schema.get("required", [])
    lines = ["", " ".join(schema.get("description", "").split()), "", "| field | |", "|---|---|"]
    for name, field in schema["properties"].items():
        missing = "" if name in required else ", or absent"
        lines.append(f"| `{name}` | {_kind(field)}{missing} |")
    return lines


def _resolved(schema: dict[str, Any], root: dict[str, Any]) -> dict[str, Any]:
    """What a reference means."""
    name = _name(schema)
    return root["$defs"][name] if name else schema


def _name(schema: dict[str, Any]) -> str:
    """The name that a reference has, else nothing."""
    return str(schema.get("$ref", "")).rpartition("/")[2]


def _kind(schema: dict[str, Any]) -> str:
    """A type in words."""
    if "$ref" in schema:
        name = _name(schema)
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(map(_kind, schema["anyOf"]))
    if "enum" in schema or "const" in schema:
        return " or ".join(
            f"`{json.dumps(one)}`" for one in schema.get("enum", [schema.get("const")])
        )
    if schema.get("type") == "array":
        if "prefixItems" in schema:
            return "list of " + ", ".join(map(_kind, schema["prefixItems"]))
        return f"list of {_kind(schema['items'])}" if schema.get("items") else "list"
    if schema.get("type") == "object":
        of = schema.get("additionalProperties")
        return f"object whose values are {_kind(of)}" if isinstance(of, dict) else "object"
    return {"date-time": "time", "uuid": "UUID"}.get(
        schema.get("format", ""), schema.get("type", "any value")
    )


def complaints(value: Any, schema: dict[str, Any], root: dict[str, Any] | None = None) -> list[str]:
    """Where a document is not what its schema says: fields that are missing or not declared, other types."""
    root = schema if root is None else root
    schema = _resolved(schema, root)
    if "const" in schema or "enum" in schema:
        allowed = schema.get("enum", [schema.get("const")])
        return [] if value in allowed else [f"{value!r:.60} is none of {allowed}"]
    if "anyOf" in schema:
        found = [complaints(value, one, root) for one in schema["anyOf"]]
        return min(found, key=len)
    if "properties" in schema:
        if not isinstance(value, dict):
            return [f"{value!r:.60} is no {schema.get('title')}"]
        fields, required = schema["properties"], set(schema.get("required", []))
        wrong = [f"{name} is missing" for name in required - value.keys()]
        wrong += [f"{name} is not declared" for name in value.keys() - fields.keys()]
        for name in value.keys() & fields.keys():
            wrong += [f"{name}: {one}" for one in complaints(value[name], fields[name], root)]
        return wrong
    kinds = {"array": list, "object": dict, "string": str, "integer": int, "number": (int, float),
             "boolean": bool, "null": type(None)}  # fmt: skip
    if (kind := schema.get("type")) and not isinstance(value, kinds[kind]):
        return [f"{value!r:.60} is no {kind}"]
    if kind == "array":
        item = schema.get("items", {})
        return [wrong for one in value for wrong in complaints(one, item, root)]
    if kind == "object" and isinstance(of := schema.get("additionalProperties"), dict):
        return [wrong for one in value.values() for wrong in complaints(one, of, root)]
    return []
