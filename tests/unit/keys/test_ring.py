"""Key rings: who gets which key, in which order, and what is kept secret."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from atlas.config import ApiKey, reset_settings
from atlas.config.keys import POOLS
from atlas.errors import ConfigurationError, InvalidInput, NotFound, QuotaExhausted
from atlas.keys import Accounts, KeyRing
from atlas.keys.ring import split
from tests.support.keys import Clock

KEYS = [f"AIzaSyFakeFakeFakeFakeFakeFakeFakeKey{i:03d}" for i in range(5)]
NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
Configure = Callable[..., None]


@pytest.fixture
def configure(monkeypatch: pytest.MonkeyPatch) -> Configure:
    """Sets the key pool and other variables."""

    def set_to(keys: object, **variables: object) -> None:
        monkeypatch.setenv("YOUTUBE_API_KEY_POOL_JSON", json.dumps(keys))
        for name, value in {"COMPLIANCE_MODE": "false", **variables}.items():
            monkeypatch.setenv(name, str(value))
        reset_settings()

    return set_to


@pytest.fixture
def clock() -> Clock:
    return Clock(NOON)


@pytest.fixture
def ring(clock: Clock) -> KeyRing:
    """Three keys of three projects."""
    return KeyRing("hunting", KEYS[:3], accounts=Accounts(clock))


def test_pools_take_their_shares_from_the_end(configure: Configure) -> None:
    configure(KEYS, KEY_POOL_ARCHEOLOGY_SIZE=2, KEY_POOL_TRACKING_SIZE=1)
    assert KeyRing("archeology").keys == KEYS[3:]
    assert KeyRing("tracking").keys == KEYS[2:3]
    assert KeyRing("hunting").keys == KEYS[:2]


def test_too_few_keys_are_shared_by_all_pools_with_a_warning(configure: Configure) -> None:
    configure(KEYS[:2])
    for pool in POOLS:
        with capture_logs() as logs:
            assert KeyRing(pool).keys == KEYS[:2]
        assert [entry["event"] for entry in logs] == ["key_pools_shared"]


def test_enough_keys_are_split_without_a_warning(configure: Configure) -> None:
    configure(KEYS[:3])
    with capture_logs() as logs:
        assert [KeyRing(pool).keys for pool in POOLS] == [[key] for key in KEYS[:3]]
    assert logs == []


@settings(deadline=None)
@given(total=st.integers(0, 40), archeology=st.integers(0, 20), tracking=st.integers(0, 20))
def test_a_split_loses_no_key_and_gives_none_twice(
    total: int, archeology: int, tracking: int
) -> None:
    keys = list(range(total))
    pools = split(keys, archeology, tracking)
    assert set(pools) == set(POOLS)
    if total <= archeology + tracking:
        assert all(pools[pool] == keys for pool in POOLS)
    else:
        assert [*pools["hunting"], *pools["tracking"], *pools["archeology"]] == keys
        assert len(pools["archeology"]) == archeology
        assert len(pools["tracking"]) == tracking


def test_compliance_mode_gives_every_pool_the_first_key_only(configure: Configure) -> None:
    configure(KEYS, COMPLIANCE_MODE="true")
    with capture_logs() as logs:
        for pool in POOLS:
            assert KeyRing(pool).keys == KEYS[:1]
    assert logs == []


def test_compliance_mode_is_the_default(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(KEYS)
    monkeypatch.delenv("COMPLIANCE_MODE")
    reset_settings()
    assert KeyRing("hunting").size == 1


def test_explicit_keys_override_settings_and_compliance(configure: Configure) -> None:
    configure(KEYS[:1], COMPLIANCE_MODE="true")
    ring = KeyRing("somewhere else", keys=["a", ApiKey("b", "p"), " a ", ""])
    assert ring.keys == ["a", "b"]
    assert [status.project for status in ring.status()] == [None, "p"]
    assert KeyRing("hunting", keys="lonely").keys == ["lonely"]


def test_explicit_keys_need_no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY_POOL_TRACKING_SIZE", "many")
    assert KeyRing("hunting", keys=["a"]).size == 1


@pytest.mark.parametrize("name", ["HUNTING", "Hunting", " hunting "])
def test_pool_names_are_case_insensitive(name: str, configure: Configure) -> None:
    configure(KEYS)
    ring = KeyRing(name)
    assert ring.pool_name == "hunting"
    assert ring.keys == KEYS[:3]


def test_an_unknown_pool_is_refused_naming_the_pools(configure: Configure) -> None:
    configure(KEYS)
    with pytest.raises(ConfigurationError, match="hunting, tracking, archeology"):
        KeyRing("fishing")


def test_an_empty_ring_is_a_value_error_that_says_what_to_set(configure: Configure) -> None:
    configure([])
    with pytest.raises(ValueError, match="YOUTUBE_API_KEY_POOL_JSON"):
        KeyRing("hunting")
    with pytest.raises(ConfigurationError):
        KeyRing("hunting", keys=[])
    configure(KEYS, KEY_POOL_TRACKING_SIZE=0)
    with pytest.raises(ConfigurationError, match="KEY_POOL"):
        KeyRing("tracking")


def test_next_key_goes_round(ring: KeyRing) -> None:
    assert [ring.next_key() for _ in range(7)] == [*KEYS[:3], *KEYS[:3], KEYS[0]]


def test_next_key_skips_resting_and_disabled_keys(ring: KeyRing) -> None:
    ring.rest(KEYS[0], NOON + timedelta(hours=1))
    ring.disable(KEYS[2])
    assert {ring.next_key() for _ in range(4)} == {KEYS[1]}


def test_a_rested_key_is_used_again_when_its_rest_ends(ring: KeyRing, clock: Clock) -> None:
    ring.rest(KEYS[0], NOON + timedelta(hours=1))
    clock.advance(minutes=59, seconds=59)
    assert not ring.is_usable(KEYS[0])
    clock.advance(seconds=1)
    assert ring.is_usable(KEYS[0])
    assert KEYS[0] in {ring.next_key() for _ in range(3)}


def test_an_earlier_end_does_not_shorten_a_rest(ring: KeyRing) -> None:
    ring.rest(KEYS[0], NOON + timedelta(hours=2))
    ring.rest(KEYS[0], NOON + timedelta(hours=1))
    assert ring.status()[0].resting_until == NOON + timedelta(hours=2)


def test_keys_of_one_project_rest_together(clock: Clock) -> None:
    keys = [ApiKey(KEYS[0], "p"), ApiKey(KEYS[1], "q"), ApiKey(KEYS[2], "p"), ApiKey(KEYS[3])]
    ring = KeyRing("hunting", keys, accounts=Accounts(clock))
    ring.rest(KEYS[0], NOON + timedelta(hours=1))
    assert [ring.is_usable(key) for key in KEYS[:4]] == [False, True, False, True]


def test_a_dead_key_leaves_its_project_and_a_dead_project_all_its_keys(clock: Clock) -> None:
    keys = [ApiKey(KEYS[0], "p"), ApiKey(KEYS[1], "p"), ApiKey(KEYS[2], "p"), ApiKey(KEYS[3])]
    ring = KeyRing("hunting", keys, accounts=Accounts(clock))
    ring.disable(KEYS[0])
    assert [ring.is_usable(key) for key in KEYS[:4]] == [False, True, True, True]
    ring.disable(KEYS[1], whole_project=True)
    assert [ring.is_usable(key) for key in KEYS[:4]] == [False, False, False, True]
    ring.disable(KEYS[3], whole_project=True)
    assert not ring.is_usable(KEYS[3])


def test_a_slowed_key_is_used_only_if_there_is_no_other(ring: KeyRing, clock: Clock) -> None:
    ring.slow_down(KEYS[0], NOON + timedelta(seconds=5))
    assert {ring.next_key() for _ in range(4)} == set(KEYS[1:3])
    ring.slow_down(KEYS[1], NOON + timedelta(seconds=9))
    ring.disable(KEYS[2])
    assert ring.next_key() == KEYS[0]
    assert ring.seconds_to_wait(KEYS[0]) == 5
    clock.advance(seconds=5)
    assert ring.seconds_to_wait(KEYS[0]) == 0


def test_all_spent_says_when_the_first_comes_back(ring: KeyRing) -> None:
    for hours, key in enumerate(KEYS[:3], start=2):
        ring.rest(key, NOON + timedelta(hours=hours))
    for call in (ring.next_key, ring.start_session):
        with pytest.raises(QuotaExhausted, match="2026-06-01T14:00:00") as caught:
            call()
        assert caught.value.pool_name == "hunting"


def test_all_disabled_is_a_matter_of_configuration_not_of_quota(ring: KeyRing) -> None:
    for key in KEYS[:3]:
        ring.disable(key)
    with pytest.raises(ConfigurationError, match="YOUTUBE_API_KEY_POOL_JSON"):
        ring.next_key()


def test_rests_take_aware_times_only(ring: KeyRing) -> None:
    with pytest.raises(InvalidInput):
        ring.rest(KEYS[0], NOON.replace(tzinfo=None))


def test_an_unknown_bucket_is_refused_wherever_one_is_named(ring: KeyRing) -> None:
    for ask in (
        lambda: ring.rest(KEYS[0], NOON + timedelta(hours=1), "fish"),
        lambda: ring.is_usable(KEYS[0], "fish"),
        lambda: ring.retry_at_for("fish"),
    ):
        with pytest.raises(InvalidInput, match="no quota bucket 'fish'"):
            ask()


def test_a_session_tries_every_key_once_then_says_no(ring: KeyRing) -> None:
    session = ring.start_session()
    seen = [ring.get_session_key(session)]
    while ring.attempt_rotation(session):
        seen.append(ring.get_session_key(session))
    assert seen == KEYS[:3]
    assert ring.get_session_key(session) == KEYS[2]
    assert not ring.attempt_rotation(session)


def test_sessions_do_not_disturb_each_other(ring: KeyRing) -> None:
    first, second = ring.start_session(), ring.start_session()
    assert first != second
    ring.attempt_rotation(first)
    assert ring.get_session_key(first) == KEYS[1]
    assert ring.get_session_key(second) == KEYS[0]


def test_a_session_passes_over_resting_keys(ring: KeyRing) -> None:
    ring.rest(KEYS[0], NOON + timedelta(hours=1))
    session = ring.start_session()
    assert ring.get_session_key(session) == KEYS[1]
    ring.rest(KEYS[2], NOON + timedelta(hours=1))
    assert not ring.attempt_rotation(session)


def test_a_session_keeps_the_id_it_was_given_and_numbers_pass_over_it(ring: KeyRing) -> None:
    assert ring.start_session(2) == 2
    assert [ring.start_session(), ring.start_session()] == [1, 3]
    ring.attempt_rotation(2)
    assert ring.start_session(2) == 2
    assert ring.get_session_key(2) == KEYS[0]


def test_an_unknown_or_ended_session_is_started_as_agents_expect(ring: KeyRing) -> None:
    session = ring.start_session()
    ring.attempt_rotation(session)
    ring.end_session(session)
    ring.end_session(session)
    assert ring.get_session_key(session) == KEYS[0]
    assert ring.attempt_rotation(99)
    assert ring.get_session_key(99) == KEYS[1]
    for key in KEYS[:3]:
        ring.rest(key, NOON + timedelta(hours=1))
    with pytest.raises(QuotaExhausted):
        ring.get_session_key(100)


def test_a_ring_of_own_keys_tells_how_many_live_and_when_the_first_comes_back(
    clock: Clock,
) -> None:
    ring = KeyRing.from_keys(KEYS[:3])
    assert (ring.pool_name, ring.size, ring.live_size, ring.retry_at) == ("custom", 3, 3, None)
    ring = KeyRing("hunting", KEYS[:3], accounts=Accounts(clock))
    ring.mark_key_dead(KEYS[0])
    ring.rest(KEYS[1], NOON + timedelta(hours=2))
    assert (ring.live_size, ring.retry_at) == (1, None)
    ring.rest(KEYS[2], NOON + timedelta(hours=1))
    assert (ring.live_size, ring.retry_at) == (0, NOON + timedelta(hours=1))
    with pytest.raises(QuotaExhausted) as caught:
        ring.next_key()
    assert caught.value.retry_at == NOON + timedelta(hours=1)


def test_one_key_under_two_projects_is_refused_showing_four_characters(
    configure: Configure,
) -> None:
    for keys in ([ApiKey(KEYS[0], "p"), ApiKey(KEYS[0], "q")], ["a,b"], ["a b"]):
        with pytest.raises(ConfigurationError) as caught:
            KeyRing("hunting", keys)
        assert KEYS[0] not in str(caught.value)
    assert KeyRing("hunting", [KEYS[0], ApiKey(KEYS[0], "p")]).status()[0].project == "p"
    configure([{"key": KEYS[0], "project": "p"}, {"key": KEYS[0], "project": "q"}])
    with pytest.raises(ConfigurationError, match=KEYS[0][-4:]) as caught:
        KeyRing("hunting")
    assert KEYS[0] not in str(caught.value)


def test_threads_get_every_key_equally_often() -> None:
    ring = KeyRing("hunting", KEYS)
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda _: ring.next_key(), range(1000)))
    assert {got.count(key) for key in KEYS} == {200}


def test_threads_each_walk_the_whole_ring_in_their_own_session() -> None:
    ring = KeyRing("hunting", KEYS)

    def walk(_: int) -> list[str]:
        session = ring.start_session()
        seen = [ring.get_session_key(session)]
        while ring.attempt_rotation(session):
            seen.append(ring.get_session_key(session))
        ring.end_session(session)
        return seen

    with ThreadPoolExecutor(8) as pool:
        assert all(seen == KEYS for seen in pool.map(walk, range(200)))


def test_rings_of_a_process_share_what_is_known_unless_they_have_accounts_of_their_own() -> None:
    one, two = (KeyRing("hunting", KEYS[:2]) for _ in range(2))
    alone = KeyRing("hunting", KEYS[:2], accounts=Accounts())
    one.use(KEYS[0])
    one.disable(KEYS[0])
    assert [ring.status()[0].uses for ring in (one, two, alone)] == [1, 1, 0]
    assert [ring.next_key() for ring in (one, two, alone)] == [KEYS[1], KEYS[1], KEYS[0]]


def test_a_key_of_another_ring_is_not_found(ring: KeyRing) -> None:
    for call in (ring.use, ring.disable, ring.is_usable, ring.seconds_to_wait):
        with pytest.raises(NotFound):
            call(KEYS[4])


def test_no_key_is_shown_by_representations_status_or_errors(ring: KeyRing) -> None:
    shown = [
        repr(ring),
        str(ring),
        repr(ring.status()),
        repr(ring.accounts),
        repr(vars(ring)["_keys"]),
    ]
    for key in KEYS[:3]:
        ring.rest(key, NOON + timedelta(hours=1))
    for call in (ring.next_key, lambda: ring.use(KEYS[4])):
        try:
            call()
        except Exception as error:
            shown += traceback.format_exception(error)
    try:
        KeyRing("hunting", [KEYS[0].encode()])  # wrong on purpose
    except ConfigurationError as error:
        shown += traceback.format_exception(error)
    assert not [text for text in shown for key in KEYS if key in text]


def test_a_status_tells_keys_apart_by_their_last_four_and_hides_short_ones() -> None:
    ring = KeyRing("hunting", [KEYS[0], "short"])
    assert [status.key for status in ring.status()] == [f"…{KEYS[0][-4:]}", "…"]
