"""Tables whose finished rows go to the vault: one class a table, which chooses them."""

from __future__ import annotations

from atlas.repositories.finished.rows import Condition, FinishedRow, FinishedRows
from atlas.repositories.finished.videos import FinishedVideos

__all__ = ["FINISHED", "Condition", "FinishedRow", "FinishedRows", "FinishedVideos"]

#: By the folder in the vault; what `atlas.tables.archived` declares so is here.
FINISHED: dict[str, type[FinishedRows]] = {
    kind.archived.dataset: kind for kind in (FinishedVideos,)
}
