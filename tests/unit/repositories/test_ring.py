"""Ids as positions, and pages: whatever goes in comes out, and nothing else is found."""

from __future__ import annotations

import base64
import contextlib
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas.errors import CorruptObject
from atlas.repositories.ring.cohorts import (
    ROUND,
    Day,
    Passes,
    cohort_of,
    day_number,
    settled,
)
from atlas.repositories.ring.page import DORMANT, MAX_BYTES, Entries, look_up, pack, split, unpack
from atlas.repositories.ring.positions import (
    LAST_POSITION,
    ids_of,
    is_canonical,
    position,
    positions_of,
    stored,
)

IDS = st.integers(0, 2**64 - 1).map(
    lambda number: base64.urlsafe_b64encode(number.to_bytes(8))[:11].decode()
)
# the ends of the signed and the unsigned range, and what lies close together
POSITIONS = st.one_of(
    st.integers(0, LAST_POSITION),
    st.integers(0, 300),
    st.integers(2**63 - 300, 2**63 + 300),
    st.integers(LAST_POSITION - 300, LAST_POSITION),
)
DAYS = st.integers(0, 2**16 - 1)


@st.composite
def entries(draw: st.DrawFn, max_size: int = 80) -> Entries:
    positions = sorted(draw(st.sets(POSITIONS, max_size=max_size)))
    size = len(positions)
    kinds = draw(st.lists(st.integers(0, 2**16 - 1), min_size=1, max_size=40))
    days = draw(st.lists(DAYS, min_size=size, max_size=size))
    return Entries.of(
        np.array(positions, np.uint64),
        draw(st.lists(st.sampled_from(kinds), min_size=size, max_size=size)),
        days,
        [day and draw(DAYS) for day in days],
    )


def same(left: Entries, right: Entries) -> bool:
    names = ("positions", "cohorts", "days", "parked")
    return all(np.array_equal(getattr(left, name), getattr(right, name)) for name in names)


@given(st.lists(IDS))
def test_ids_come_back_from_their_positions(ids: list[str]) -> None:
    assert all(map(is_canonical, ids))
    assert ids_of(positions_of(ids)) == ids
    assert len(set(positions_of(ids).tolist())) == len(set(ids))


@pytest.mark.parametrize(
    "text",
    ["", "short", "dQw4w9WgXcQQ", "dQw4w9WgXcR", "dQw4w9WgX Q", "dQw4w9WgX+Q", "äQw4w9WgXcQ"],
)
def test_what_is_no_youtube_id_has_no_position(text: str) -> None:
    assert not is_canonical(text)
    assert is_canonical("dQw4w9WgXcQ")


@given(POSITIONS, POSITIONS)
def test_stored_positions_keep_their_order_in_a_signed_column(left: int, right: int) -> None:
    assert -(2**63) <= stored(left) < 2**63
    assert position(stored(left)) == left
    assert (stored(left) < stored(right)) == (left < right)


@given(entries(), POSITIONS)
def test_a_page_gives_back_what_was_packed(these: Entries, lower: int) -> None:
    lower = min(lower, int(these.positions[0])) if len(these) else lower
    assert same(unpack(pack(these, lower), lower), these)


@given(entries(), st.lists(POSITIONS, max_size=20))
def test_a_look_up_finds_the_entries_and_nothing_else(these: Entries, others: list[int]) -> None:
    cohort_at = dict(zip(these.positions.tolist(), these.cohorts.tolist(), strict=True))
    asked = sorted({*cohort_at, *others})
    assert look_up(pack(these, 0), 0, asked) == [cohort_at.get(number) for number in asked]


@given(entries(), entries())
def test_merging_keeps_every_position_once_and_the_later_facts(old: Entries, new: Entries) -> None:
    merged = old.merged(new)
    facts = dict(zip(old.positions.tolist(), old.cohorts.tolist(), strict=True))
    facts |= dict(zip(new.positions.tolist(), new.cohorts.tolist(), strict=True))
    assert dict(zip(merged.positions.tolist(), merged.cohorts.tolist(), strict=True)) == facts
    assert merged.positions.tolist() == sorted(facts)


@pytest.mark.parametrize("size", [0, 1, 1_300, 20_000])
def test_pages_cover_their_span_without_a_gap_and_fit_into_a_tuple(size: int) -> None:
    random = np.random.default_rng(size)
    these = Entries.of(
        random.integers(0, LAST_POSITION, size, np.uint64, endpoint=True),
        random.integers(0, 40, size),
    )
    pages = split(these, 0, LAST_POSITION)
    assert pages[0].lower == 0
    assert pages[-1].upper == LAST_POSITION
    assert all(one.upper + 1 == two.lower for one, two in pairwise(pages))
    assert all(len(page.packed) <= MAX_BYTES for page in pages)
    assert sum(page.entries for page in pages) == size
    found = [unpack(page.packed, page.lower).positions for page in pages]
    assert np.array_equal(np.concatenate(found), these.positions)


@given(st.binary(max_size=60))
def test_a_damaged_page_is_a_foreseen_error(packed: bytes) -> None:
    # whatever else it raises fails the test
    with contextlib.suppress(CorruptObject):
        unpack(packed, 0)


def test_an_entry_was_last_sampled_when_its_pointer_passed_it() -> None:
    half = ROUND // 2
    passes = Passes(
        ROUND + half, (Day(100, half, 97), Day(104, ROUND, 100), Day(108, ROUND + half, 105))
    )
    assert passes.last_sampled(half // 2, 0, 0) == 108
    assert passes.last_sampled(half + 5, 0, 0) == 104
    assert Passes().last_sampled(5, 0, 0) is None
    # parked after the pointer had passed: the day of its own sample counts
    assert passes.last_sampled(half + 5, 103, 105) == 103
    # sampled so shortly before that the pointer left it out
    assert passes.last_sampled(half // 2, 106, 106) == 106
    assert passes.last_sampled(half // 2, 102, 103) == 108


def test_the_day_of_a_sample_is_kept_until_the_pointer_has_woken_the_entry() -> None:
    passes = {9: Passes(ROUND // 2, (Day(100, ROUND // 2, 97),))}
    these = Entries.of(np.array([1, 2, ROUND - 1], np.uint64), 9, [90, 98, 90], [95, 98, 95])
    assert settled(these, passes).days.tolist() == [0, 98, 90]


def test_cohorts_are_months_for_two_years_and_years_before() -> None:
    now = datetime(2026, 11, 27, tzinfo=UTC)

    def of(moment: datetime | None) -> int:
        return cohort_of("WEEKLY", moment, now)

    assert of(None) == of(now) == of(now + timedelta(days=9))
    assert of(datetime(2026, 10, 3, tzinfo=UTC)) == of(now) - 1
    assert of(datetime(2020, 3, 1, tzinfo=UTC)) == of(datetime(2020, 12, 31, tzinfo=UTC))
    assert of(datetime(2005, 4, 23, tzinfo=UTC)) == 2
    assert cohort_of("DORMANT", now, now) == DORMANT
    assert day_number(datetime(1970, 1, 2, tzinfo=UTC)) == 1
