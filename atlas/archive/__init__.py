"""The move from hot to cold; see docs/archive.md."""

from atlas.archive.compaction import CompactionReport
from atlas.archive.engine import Archiver
from atlas.archive.erasure import ErasedFile, ForgetReceipt
from atlas.archive.rebuild import RebuildReport
from atlas.archive.restore import ReleaseReport, RestoreReport
from atlas.archive.run import ArchiveReport
from atlas.archive.upkeep import Finding, GarbageReport

__all__ = [
    "ArchiveReport",
    "Archiver",
    "CompactionReport",
    "ErasedFile",
    "Finding",
    "ForgetReceipt",
    "GarbageReport",
    "RebuildReport",
    "ReleaseReport",
    "RestoreReport",
]
