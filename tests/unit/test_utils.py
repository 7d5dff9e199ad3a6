"""The façade: names, id checks and the health check."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas import utils
from atlas.utils import health_check_all, validate_channel_id, validate_youtube_id


def test_the_names_of_the_contract_are_here() -> None:
    assert {
        "HydraExecutor",
        "KeyRing",
        "YouTubeAPIError",
        "execute_youtube_request_async",
        "health_check_all",
        "retry",
        "retry_async",
        "validate_channel_id",
        "validate_youtube_id",
    } == set(utils.__all__)
    assert all(callable(getattr(utils, name)) for name in utils.__all__)


def test_importing_reads_no_setting_and_loads_no_client_of_a_service() -> None:
    code = (
        "import os, sys\n"
        "os.environ['DATABASE_URL'] = 'not a url'\n"
        "import atlas.utils\n"
        "from atlas.config import get_settings\n"
        "assert get_settings.cache_info().currsize == 0\n"
        "heavy = {'aiohttp', 'gcsfs', 'huggingface_hub', 'sqlalchemy', 'pyarrow'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)


@pytest.mark.parametrize("good", ["dQw4w9WgXcQ", "___________", "-----------", "0123456789a"])
def test_video_ids_are_recognised(good: str) -> None:
    assert validate_youtube_id(good) is True


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "short",
        "dQw4w9WgXcQQ",
        "dQw4w9WgXc!",
        "dQw4w9WgXcQ\n",
        " Qw4w9WgXcQ",
        "dQw4w9WgXc\u00e9",
        "\u0660" * 11,
    ],
)
def test_what_is_no_video_id_is_refused(bad: str) -> None:
    assert validate_youtube_id(bad) is False


def test_channel_ids_are_recognised_and_others_refused() -> None:
    good = "UC" + "a-_0" * 5 + "Zz"
    assert validate_channel_id(good) is True
    for bad in (
        "",
        good[:-1],
        good + "a",
        "HC" + good[2:],
        good.lower(),
        good + "\n",
        good[:-1] + ".",
    ):
        assert validate_channel_id(bad) is False


@settings(deadline=None)
@given(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.binary(),
        st.text(),
        st.lists(st.text()),
    )
)
def test_id_checks_take_anything_without_raising(value: Any) -> None:
    assert validate_youtube_id(value) in (True, False)
    assert validate_channel_id(value) in (True, False)


class Store:
    """A store whose answer is scripted."""

    def __init__(
        self, error: BaseException | None = None, gate: threading.Event | None = None
    ) -> None:
        self.error = error
        self.gate = gate
        self.threads: list[threading.Thread] = []

    def stat(self, key: str) -> None:
        self.threads.append(threading.current_thread())
        if self.gate is not None:
            self.gate.wait()
        if self.error is not None:
            raise self.error


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Puts a scripted database answer and store in place of the default objects'."""

    def put(database: bool | Exception, store: Store) -> None:
        async def health_check() -> bool:
            if isinstance(database, Exception):
                raise database
            return database

        monkeypatch.setattr("atlas.db.db", SimpleNamespace(health_check=health_check))
        monkeypatch.setattr("atlas.vault.vault", SimpleNamespace(store=store))

    return put


async def test_both_healthy(parts: Any) -> None:
    store = Store()
    parts(True, store)
    assert await health_check_all() == {"database": True, "vault": True}
    assert store.threads != [threading.current_thread()]


async def test_one_failing_part_does_not_colour_the_other(parts: Any) -> None:
    parts(True, Store(OSError("down")))
    assert await health_check_all() == {"database": True, "vault": False}
    parts(False, Store())
    assert await health_check_all() == {"database": False, "vault": True}
    parts(RuntimeError("broken"), Store())
    assert await health_check_all() == {"database": False, "vault": True}


async def test_a_silent_vault_counts_as_unhealthy_and_does_not_hold_up_the_end(
    parts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()
    store = Store(gate=gate)
    parts(True, store)
    monkeypatch.setattr(utils, "VAULT_TIMEOUT", 0.01)
    try:
        assert await health_check_all() == {"database": True, "vault": False}
        assert [thread.daemon for thread in store.threads] == [True]
    finally:
        gate.set()


async def test_wrong_settings_are_unhealthy_not_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENV", "prod")  # neither a database nor a vault is configured
    assert await health_check_all() == {"database": False, "vault": False}
