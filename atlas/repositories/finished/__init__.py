"""Rows that PostgreSQL is finished with, on their way to the vault."""

from __future__ import annotations

from atlas.repositories.finished.rows import FinishedRows
from atlas.repositories.finished.tables import FINISHED, FinishedVideos

__all__ = ["FINISHED", "FinishedRows", "FinishedVideos"]
