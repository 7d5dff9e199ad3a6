"""What commands print under ``--json``: docs/json.md shows it, and tests hold every command to it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, NotRequired, get_type_hints

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

# of `typing` pydantic takes those of Python 3.12 and later only
from typing_extensions import TypedDict

from atlas.adapters.rows import JanitorResult
from atlas.archive.export.slices import ArchiveReport
from atlas.archive.maintenance.compaction import CompactionReport
from atlas.archive.maintenance.erasure import ForgetReceipt
from atlas.archive.maintenance.fsck import Finding as FsckFinding
from atlas.archive.maintenance.fsck import GarbageReport
from atlas.archive.maintenance.rebuild import RebuildReport
from atlas.archive.maintenance.restore import ReleaseReport, RestoreReport
from atlas.archive.recovery.adoption import AdoptReport
from atlas.archive.recovery.moving import MoveReport
from atlas.cli.commands.demo import Summary
from atlas.cli.commands.operating.doctor import Finding
from atlas.events.delivery.router import Explanation
from atlas.exporting import ExportReport
from atlas.importing.report import ImportReport
from atlas.importing.takeover import TakenOver
from atlas.keys.accounting.accounts import KeyStatus
from atlas.repositories.events.deliveries import DeliveryStatus
from atlas.repositories.events.endpoints import Route
from atlas.repositories.events.log import RecordedEvent
from atlas.repositories.leases import LeaseCounts, Quarantined
from atlas.repositories.notifications import ErrorGroup
from atlas.status import Status
from atlas.vault.spool.metrics import Pending


def _more(base: type, name: str, meaning: str, **fields: Any) -> Any:
    """The fields of a report and more."""
    made: Any = TypedDict(name, {**get_type_hints(base, include_extras=True), **fields})  # type: ignore[misc]
    made.__doc__ = meaning
    return made


class Observed(TypedDict):
    """A sample of one video; a counter that is not known is null."""

    timestamp: datetime
    views: int | None
    likes: int | None
    comment_count: int | None


class DemoSample(Observed):
    """A sample."""

    video_id: str


class History(TypedDict):
    """The samples of a video in the order of time; ``plot`` is the file that was drawn."""

    video_id: str
    samples: list[Observed]
    plot: NotRequired[str]


Demo = _more(
    Summary,
    "Demo",
    "What came of the demo, and the samples of its ``example``.",
    history=list[DemoSample],
)


StatusAndSpool = _more(
    Status,
    "StatusAndSpool",
    "One look at the database, and what waits on this machine for the vault.",
    spool=Pending,
)


class Setting(TypedDict):
    """A variable with its value in force; a secret that is set is ``**********``."""

    variable: str
    value: Any
    source: str


class Health(TypedDict):
    """Whether PostgreSQL answered, else why it did not."""

    healthy: bool
    reason: str | None


class Upgraded(TypedDict):
    """Revisions before and after; null where there is no schema."""

    before: str | None
    after: str | None


class Dropped(TypedDict):
    """Tables that were dropped."""

    dropped: list[str]


class Current(TypedDict):
    """The revision of the database."""

    current: str | None


class CurrentAndHead(Current):
    """The revision of the database and the newest that there is."""

    head: str


class RoleStatements(TypedDict):
    """The SQL, and whether it was run."""

    applied: bool
    statements: list[str]


class StoredObject(TypedDict):
    """An object of the vault."""

    key: str
    size: int
    modified_at: datetime | None


class Barred(TypedDict):
    """A forgotten id; without a time its erasure is not finished."""

    video_id: str
    erased_at: datetime | None


class Copied(TypedDict):
    """An object of the vault that is in a file."""

    key: str
    path: Path
    bytes: int


class Known(TypedDict):
    """Rows of one video."""

    video_id: str
    samples: int
    videos: int
    watchlist: int
    events: int


class WouldForget(TypedDict):
    """What an erasure would find."""

    dry_run: Literal[True]
    videos: list[Known]


class WorkListing(TypedDict):
    """What is held and what was put aside, by kind of work."""

    counts: list[LeaseCounts]
    quarantined: list[Quarantined]


class Requeued(TypedDict):
    """How many can be claimed again."""

    requeued: int


class KeyAnswer(TypedDict):
    """What the API says of a key, of which the last four characters are shown."""

    key: str
    project: str
    answer: str


EventDelivery = _more(
    DeliveryStatus,
    "EventDelivery",
    "One event's delivery to one endpoint.",
    state=Literal["delivered", "waiting", "dead"],
)


class EventWithDeliveries(TypedDict):
    """An event and what became of it."""

    event: RecordedEvent
    deliveries: list[EventDelivery]


ListedEvent = _more(
    RecordedEvent, "ListedEvent", "An event and what became of it.", deliveries=list[EventDelivery]
)


class Events(TypedDict):
    """Recent events; ``delivered`` before they were read, null without ``--deliver``."""

    delivered: int | None
    events: list[ListedEvent]


class Replayed(TypedDict):
    """Deliveries that are due again."""

    replayed: int


class Delivered(TypedDict):
    """Deliveries of this process."""

    delivered: int


class EndpointFacts(TypedDict):
    """An endpoint without address, secrets and values of headers; ``url`` only where it names a variable."""

    id: int
    name: str
    url: str
    patterns: list[str]
    condition: dict[str, Any] | None
    headers: list[str]
    max_in_flight: int
    state: str
    reason: str | None
    paused_until: datetime | None
    pause_seconds: int
    failing_since: datetime | None
    changed_at: datetime
    created_at: datetime
    signed: bool
    rotating: bool


class EndpointListing(EndpointFacts):
    """An endpoint and how many deliveries wait, came and are dead."""

    waiting: int
    delivered: int
    dead: int


class Changed(TypedDict):
    """Whether it was otherwise before."""

    changed: bool


class Discarded(TypedDict):
    """Open deliveries that went with the endpoint."""

    discarded: int


class Rotating(TypedDict):
    """Whether two secrets sign."""

    rotating: bool


class Removed(TypedDict):
    """The number of the rule."""

    removed: int


ErrorWithStack = _more(
    ErrorGroup,
    "ErrorWithStack",
    "Errors with one fingerprint, with the stack and context of the first.",
    stack=str,
    context=dict[str, Any],
)


class ErrorState(TypedDict):
    """What a group is now."""

    fingerprint: str
    state: Literal["muted", "resolved"]


class Failure(TypedDict):
    """Why a command failed: the error's class, and what to do."""

    type: str
    message: str
    hint: str | None


class Failed(TypedDict):
    """What every command prints when it fails."""

    error: Failure


#: Raised where a field goes or changes, not where one is added.
VERSION = 1

#: What a command prints, and with which option something else.
DOCUMENTS: Mapping[str, Any] = {
    "archive": ArchiveReport,
    "config": list[Setting],
    "db check": Current,
    "db current": CurrentAndHead,
    "db drop-old": Dropped,
    "db roles": RoleStatements,
    "db stamp": Current,
    "db upgrade": Upgraded,
    "db upgrade --take-over": list[TakenOver],
    "demo": Demo,
    "doctor": list[Finding],
    "errors list": list[ErrorGroup],
    "errors mute": ErrorState,
    "errors resolve": ErrorState,
    "errors show": ErrorWithStack,
    "events": Events,
    "events deliver": Delivered,
    "events endpoints add": EndpointFacts,
    "events endpoints disable": Changed,
    "events endpoints enable": Changed,
    "events endpoints list": list[EndpointListing],
    "events endpoints remove": Discarded,
    "events endpoints rotate": Rotating,
    "events list": Events,
    "events replay": Replayed,
    "events route add": Route,
    "events route explain": list[Explanation],
    "events route list": list[Route],
    "events route remove": Removed,
    "events show": EventWithDeliveries,
    "export": ExportReport,
    "health": Health,
    "history": History,
    "import": ImportReport,
    "janitor": _more(JanitorResult, "Janitor", "Why nothing was done, a count, or what was done."),
    "keys": dict[str, list[KeyStatus]],
    "keys list": dict[str, list[KeyStatus]],
    "keys test": list[KeyAnswer],
    "status": StatusAndSpool,
    "vault adopt": AdoptReport,
    "vault compact": CompactionReport,
    "vault forget": ForgetReceipt,
    "vault forget --dry-run": WouldForget,
    "vault fsck": list[FsckFinding],
    "vault gc": GarbageReport,
    "vault get": Copied,
    "vault ls": list[StoredObject],
    "vault ls --forgotten": list[Barred],
    "vault move": MoveReport,
    "vault rebuild": RebuildReport,
    "vault release": ReleaseReport,
    "vault restore": RestoreReport,
    "work ls": WorkListing,
    "work requeue": Requeued,
}


class _Schema(GenerateJsonSchema):
    """Every field of a report is printed, also one that has its default."""

    def field_is_required(self, field: Any, total: bool) -> bool:
        return field["type"] == "dataclass-field" or super().field_is_required(field, total)


def schema_of(arguments: Sequence[str]) -> dict[str, Any]:
    """The JSON schema of what the program prints for these arguments."""
    words = [one for one in arguments if not one.startswith("-")]
    found = [
        name
        for name in DOCUMENTS
        for command, _, option in [name.partition(" --")]
        if words[: command.count(" ") + 1] == command.split()
        and (not option or f"--{option}" in arguments)
    ]
    return _schema(DOCUMENTS[max(found, key=len)])


def _schema(kind: Any) -> dict[str, Any]:
    return TypeAdapter(kind).json_schema(mode="serialization", schema_generator=_Schema)


#: The schema of what a command prints that fails.
FAILURE = _schema(Failed)


def page() -> str:
    """docs/json.md."""
    parts: dict[str, dict[str, Any]] = {}
    lines = [(Path(__file__).parent / "json.md").read_text().format(version=VERSION).rstrip()]
    for command in sorted(DOCUMENTS):
        lines.append(f"\n## `atlas {command}`")
        schema = _schema(DOCUMENTS[command])
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
