"""Search terms have one spelling."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas.repositories.search_queue import normalised

#: Everything that UTF-8 can hold.
TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@given(TEXT)
def test_a_normalised_term_stays_as_it_is(term: str) -> None:
    assert normalised(normalised(term)) == normalised(term)


@given(TEXT, TEXT)
def test_spaces_make_no_other_term(one: str, two: str) -> None:
    assert normalised(f" {one}\u2003\n{two} ") == normalised(f"{one} {two}")


@given(st.text(st.characters(codec="latin-1")))
def test_case_makes_no_other_term(term: str) -> None:
    assert normalised(term.upper()) == normalised(term.lower()) == normalised(term)


def test_no_character_is_normalised_twice_into_something_else() -> None:
    every = "x".join(map(chr, [*range(0xD800), *range(0xE000, sys.maxunicode + 1)]))
    assert normalised(normalised(every)) == normalised(every)


@pytest.mark.parametrize("blank", ["", " ", "\n\t\u00a0\u3000\x1f"])
def test_what_is_blank_becomes_empty(blank: str) -> None:
    assert normalised(blank) == ""
