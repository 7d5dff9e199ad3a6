"""Temporary data lies where Atlas is at home, and does not stay there."""

from __future__ import annotations

import io
import os
import time

from atlas.config import get_settings
from atlas.vault.stores.base import local_copy


def test_the_copy_of_an_upload_lies_under_atlas_home_and_goes_with_it() -> None:
    home = get_settings().atlas_home
    with local_copy(io.BytesIO(b"content")) as path:
        assert path.is_relative_to(home)
        assert path.parent.stat().st_mode & 0o077 == 0
        assert path.read_bytes() == b"content"
    assert not list((home / "tmp").iterdir())


def test_what_a_crash_left_a_day_ago_is_swept_and_what_is_at_work_is_not() -> None:
    left, at_work = (get_settings().atlas_home / "tmp" / name for name in ("upload-a", "upload-b"))
    for folder in (left, at_work):
        folder.mkdir(parents=True)
        (folder / "object").write_bytes(b"half")
    day_ago = time.time() - 86_401
    os.utime(left, (day_ago, day_ago))
    with local_copy(io.BytesIO(b"content")):
        assert not left.exists()
        assert at_work.exists()
