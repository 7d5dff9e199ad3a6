"""Objects far larger than the memory that is spent on them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from tests.contracts.spool.test_processes import Start, finish, start
from tests.support.places import Place

__all__ = ["start"]  # a fixture

MEGABYTES = 200


@pytest.fixture(scope="session")
def large_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 MB that no client can make smaller."""
    path = tmp_path_factory.mktemp("large") / "object"
    with path.open("wb") as target:
        for number in range(MEGABYTES):
            target.write(hashlib.shake_128(b"%d" % number).digest(1_000_000))
    return path


def test_200_mb_go_and_come_in_less_than_200_mb_of_memory(
    place: Place, start: Start, large_file: Path
) -> None:
    told = json.loads(finish(start(place, "stream", str(large_file))))
    with large_file.open("rb") as source:
        digest = hashlib.file_digest(source, "sha256").hexdigest()
    assert told["sums"] == [digest, digest]
    assert told["after"] < MEGABYTES, told
