"""Which work is done next, by whom, and when a video is sampled again.

See docs/leases.md and docs/scheduling.md.
"""

from atlas.scheduling.batch import Batch
from atlas.scheduling.items import CollectItem, Item, RetrackItem, SearchItem, TrackItem
from atlas.scheduling.policies import AgePolicy, Observation, Policy, Schedule, VelocityPolicy
from atlas.scheduling.work import Work

__all__ = [
    "AgePolicy",
    "Batch",
    "CollectItem",
    "Item",
    "Observation",
    "Policy",
    "RetrackItem",
    "Schedule",
    "SearchItem",
    "TrackItem",
    "VelocityPolicy",
    "Work",
]
