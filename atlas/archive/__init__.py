"""The move from hot to cold; see docs/archive.md."""

from atlas.archive.engine import Archiver
from atlas.archive.run import ArchiveReport
from atlas.archive.upkeep import Finding, GarbageReport

__all__ = ["ArchiveReport", "Archiver", "Finding", "GarbageReport"]
