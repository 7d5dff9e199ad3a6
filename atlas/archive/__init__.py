"""The move from hot to cold; see docs/archive.md."""

from atlas.archive.engine import Archiver, ArchiveReport

__all__ = ["ArchiveReport", "Archiver"]
