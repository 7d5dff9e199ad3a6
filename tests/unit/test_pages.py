"""The pages that are made from the code are what the code makes today."""

from __future__ import annotations

import pytest

from tools.pages import PAGES, ROOT


@pytest.mark.parametrize("name", PAGES)
def test_a_page_made_from_the_code_is_current(name: str) -> None:
    assert (ROOT / name).read_text() == PAGES[name](), "run `make docs` and commit what it writes"
