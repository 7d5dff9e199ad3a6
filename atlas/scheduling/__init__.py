"""When a video is sampled next."""

from atlas.scheduling.policies import AgePolicy, Schedule

__all__ = ["AgePolicy", "Schedule"]
