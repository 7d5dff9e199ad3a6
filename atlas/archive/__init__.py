"""The move from hot to cold; see docs/archive.md."""

from atlas.archive.archiver import Archiver
from atlas.archive.export.slices import ArchiveReport
from atlas.archive.maintenance.compaction import CompactionReport
from atlas.archive.maintenance.erasure import ErasedFile, ForgetReceipt
from atlas.archive.maintenance.fsck import Finding, GarbageReport
from atlas.archive.maintenance.rebuild import RebuildReport
from atlas.archive.maintenance.restore import ReleaseReport, RestoreReport

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
