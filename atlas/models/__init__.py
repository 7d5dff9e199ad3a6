"""The tables of Atlas, one module a family."""

from atlas.models.archive import (
    ArchiveControl,
    ArchiveFile,
    ArchivePin,
    ErasedDigest,
    ErasureRecord,
    StaleSample,
    UnclaimedObject,
)
from atlas.models.base import Base
from atlas.models.events import (
    EventCursor,
    EventDelivery,
    EventEndpoint,
    EventRoute,
    SystemEvent,
)
from atlas.models.keys import ApiBreaker, KeyNotice, KeyRest, QuotaUsage
from atlas.models.notifications import ErrorGroup, NotificationLane
from atlas.models.stats import StatsRecord
from atlas.models.videos import ChannelRecord, VideoRecord, VideoTombstone
from atlas.models.watchlist import (
    FilterPage,
    RingCohort,
    RingDay,
    RingPage,
    SearchTerm,
    TrackingBudgetDay,
    WatchlistEntry,
)

__all__ = [
    "ApiBreaker",
    "ArchiveControl",
    "ArchiveFile",
    "ArchivePin",
    "Base",
    "ChannelRecord",
    "ErasedDigest",
    "ErasureRecord",
    "ErrorGroup",
    "EventCursor",
    "EventDelivery",
    "EventEndpoint",
    "EventRoute",
    "FilterPage",
    "KeyNotice",
    "KeyRest",
    "NotificationLane",
    "QuotaUsage",
    "RingCohort",
    "RingDay",
    "RingPage",
    "SearchTerm",
    "StaleSample",
    "StatsRecord",
    "SystemEvent",
    "TrackingBudgetDay",
    "UnclaimedObject",
    "VideoRecord",
    "VideoTombstone",
    "WatchlistEntry",
]
