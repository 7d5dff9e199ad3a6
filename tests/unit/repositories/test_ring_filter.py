"""The filter of old videos: no id that it was given is ever missing, and settling a file may be repeated."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas.errors import CorruptObject
from atlas.repositories.ring.filter import (
    DROPPED_BITS,
    Pairs,
    counting,
    pack_pairs,
    prefixes_of,
    settle,
    split_pairs,
    unpack_pairs,
)
from atlas.repositories.ring.page import KNOWN, MAX_BYTES, Entries, look_up_all
from atlas.repositories.ring.positions import LAST_POSITION, Positions

COHORT = 14
LAST_PREFIX = (1 << 64 - DROPPED_BITS) - 1
# few of them, so that prefixes and positions meet
NEAR = st.builds(lambda base, low: base << 30 | low, st.integers(0, 6), st.integers(0, 4))
POSITIONS = st.one_of(NEAR, st.integers(0, LAST_POSITION))
PREFIXES = st.one_of(st.integers(0, 8), st.integers(0, LAST_PREFIX))
COHORTS = st.sampled_from([2, 14, 26, 38, 65_535])


def numbers(values: list[int]) -> Positions:
    return np.array(values, np.uint64)


@st.composite
def pairs(draw: st.DrawFn) -> Pairs:
    these = draw(st.lists(st.tuples(PREFIXES, COHORTS), max_size=60))
    return Pairs.of(numbers([one for one, _ in these]), [cohort for _, cohort in these])


def as_set(these: Pairs) -> set[tuple[int, int]]:
    return set(zip(these.prefixes.tolist(), these.cohorts.tolist(), strict=True))


@given(pairs(), PREFIXES)
def test_a_page_gives_back_what_was_packed(these: Pairs, lower: int) -> None:
    lower = (min(lower, int(these.prefixes[0])) if len(these) else lower) << DROPPED_BITS
    back = unpack_pairs(pack_pairs(these, lower), lower)
    assert back.prefixes.tolist() == these.prefixes.tolist()
    assert back.cohorts.tolist() == these.cohorts.tolist()


def test_a_damaged_page_says_which_table_it_is_of() -> None:
    with pytest.raises(CorruptObject, match="watchlist_filter"):
        unpack_pairs(b"\x09", 0)


@given(pairs(), pairs())
def test_a_union_has_what_either_has_once(one: Pairs, other: Pairs) -> None:
    both = one.union(other)
    assert as_set(both) == as_set(one) | as_set(other)
    assert len(both) == len(as_set(both))


@given(pairs(), st.lists(PREFIXES, max_size=20))
def test_candidates_are_every_cohort_of_a_prefix_and_no_other(
    these: Pairs, others: list[int]
) -> None:
    asked = sorted({*these.prefixes.tolist(), *others})
    found = look_up_all(pack_pairs(these, 0), 0, asked)
    assert found == [sorted(c for p, c in as_set(these) if p == one) for one in asked]


@pytest.mark.parametrize("size", [0, 1, 5_000, 40_000, 90_000])
@pytest.mark.parametrize("last", [LAST_PREFIX, 11_000])
def test_pages_cover_their_span_and_keep_a_prefix_together(size: int, last: int) -> None:
    random = np.random.default_rng(size)
    these = Pairs.of(
        random.integers(0, last, size, np.uint64, endpoint=True), random.integers(0, 9, size)
    )
    pages = split_pairs(these, 0, LAST_POSITION)
    assert pages[0].lower == 0
    assert pages[-1].upper == LAST_POSITION
    assert all(one.upper + 1 == two.lower for one, two in pairwise(pages))
    assert all(len(page.packed) <= MAX_BYTES for page in pages)
    parts = [unpack_pairs(page.packed, page.lower) for page in pages]
    for page, part in zip(pages, parts, strict=True):
        assert len(part.between(page.lower, page.upper)) == len(part) == page.entries
    assert sum(len(part) for part in parts) == len(these)


@st.composite
def rings(draw: st.DrawFn) -> Entries:
    these = draw(st.lists(POSITIONS, max_size=30, unique=True))
    cohorts = [draw(st.sampled_from([0, 1, 13, 14, 20, 25, 26])) for _ in these]
    days = [draw(st.sampled_from([0, 99, 101])) for _ in these]
    return Entries.of(numbers(these), cohorts, days, days)


@given(rings(), st.data())
def test_settling_loses_no_id_makes_none_known_and_may_be_repeated(
    ring: Entries, data: st.DataObject
) -> None:
    of_cohort = ring.positions[ring.cohorts == COHORT].tolist()
    others = st.one_of(POSITIONS, st.sampled_from(ring.positions.tolist() or [0]))
    in_file = sorted(
        {
            *of_cohort[: data.draw(st.integers(0, len(of_cohort)))],
            *data.draw(st.lists(others, max_size=10)),
        }
    )
    rows = Entries.of(numbers(in_file), COHORT, 100, 100)
    barred = numbers(data.draw(st.lists(others, max_size=3)))
    before = data.draw(pairs())

    def settled(ring: Entries, old: Pairs) -> tuple[Entries, Pairs]:
        done = settle(ring, rows, barred)
        return done.ring, old.union(Pairs.of(prefixes_of(done.added.positions), COHORT))

    def sampled(ring: Entries, now: Pairs) -> set[int]:
        there = counting(rows, ring, now).positions.tolist()
        return {*ring.positions[ring.cohorts != KNOWN].tolist(), *there}

    after, filled = settled(ring, before)
    forgotten = {*barred.tolist()}
    slow = {*ring.positions[ring.cohorts != KNOWN].tolist()}
    assert sampled(after, filled) - forgotten == (slow | {*in_file}) - forgotten
    # what is only known stays known, in the ring or in the file
    known = {*after.positions.tolist()} | sampled(after, filled)
    assert known | forgotten >= {*ring.positions.tolist()}
    # what is barred is not taken from where its erasure looks for it
    assert {*after.positions.tolist()} >= {*ring.positions.tolist()} & forgotten
    # the ring keeps other cohorts, and what was sampled since
    stays = ((ring.cohorts != COHORT) & (ring.cohorts != KNOWN)) | (
        (ring.cohorts == COHORT) & (ring.days > 100)
    )
    assert {*after.positions.tolist()} >= {*ring.positions[stays].tolist()}
    gone = {*ring.positions[~stays].tolist()} & {*in_file} - forgotten
    assert not gone & {*after.positions.tolist()}
    again, twice = settled(after, filled)
    assert again.positions.tolist() == after.positions.tolist()
    assert as_set(twice) == as_set(filled)
