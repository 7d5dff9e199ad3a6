"""The move from hot to cold; see docs/archive.md."""

from atlas.archive.archiver import Archiver
from atlas.archive.export.slices import ArchiveReport
from atlas.archive.maintenance.compaction import CompactionReport
from atlas.archive.maintenance.erasure import ErasedFile, ForgetReceipt
from atlas.archive.maintenance.fsck import Finding, GarbageReport
from atlas.archive.maintenance.rebuild import RebuildReport
from atlas.archive.maintenance.restore import ReleaseReport, RestoreReport
from atlas.archive.recovery.adoption import AdoptReport
from atlas.archive.recovery.moving import MoveReport

__all__ = [
    "AdoptReport",
    "ArchiveReport",
    "Archiver",
    "CompactionReport",
    "ErasedFile",
    "Finding",
    "ForgetReceipt",
    "GarbageReport",
    "MoveReport",
    "RebuildReport",
    "ReleaseReport",
    "RestoreReport",
]
