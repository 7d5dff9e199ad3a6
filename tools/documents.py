"""What commands print under ``--json``: docs/json.md shows it, and tests hold every command to it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, NotRequired, get_type_hints

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
    "vault restore-schedule": dict[Literal["videos"], int],
    "work ls": WorkListing,
    "work requeue": Requeued,
}
