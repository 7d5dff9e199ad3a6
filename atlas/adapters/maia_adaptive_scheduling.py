"""Sampling schedules for agents, under the name that the platform's later code uses."""

from __future__ import annotations

from atlas.adapters.maia_ghost import GhostTrackingMixin as AdaptiveSchedulingMixin

__all__ = ["AdaptiveSchedulingMixin"]
