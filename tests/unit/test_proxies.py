"""Everything that goes out over HTTP obeys the same proxy variables, and no client reports home."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from atlas import webhook_client
from atlas.errors import AtlasError, Unavailable
from atlas.vault.stores.gcs import GCSStore
from atlas.vault.stores.huggingface import HuggingFaceStore

#: A name that nobody resolves: only a proxy can be asked for it.
NOWHERE = "nowhere.invalid"


@pytest.fixture
async def asked(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[list[str]]:
    """The first lines of what a proxy was asked for; it answers 404."""
    lines: list[str] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            lines.append(head.decode())
            writer.write(
                b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"
            )
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{port}")
    async with server:
        yield lines


async def post(url: str, *, allow_private: bool = False) -> webhook_client.Answer:
    async with webhook_client.client(timeout=20, allow_private=allow_private) as client:
        return await client.post(url, b"{}", {})


async def test_webhooks_go_through_the_proxy(asked: list[str]) -> None:
    assert (await post(f"http://{NOWHERE}/hook")).status == 404
    assert asked[0].startswith(f"POST http://{NOWHERE}/hook ")


async def test_a_proxy_that_changes_counts_after_a_second(
    asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(webhook_client, "time", SimpleNamespace(monotonic=lambda: now))
    url = f"http://{NOWHERE}/hook"
    async with webhook_client.client(timeout=20, allow_private=True) as client:
        await client.post(url, b"{}", {})
        monkeypatch.delenv("http_proxy")
        now += webhook_client.PROXY_SECONDS
        await client.post(url, b"{}", {})
        assert len(asked) == 2
        now += 0.001
        with pytest.raises(Unavailable):
            await client.post(url, b"{}", {})
        assert len(asked) == 2


async def test_no_proxy_names_what_does_not(
    asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", NOWHERE)
    with pytest.raises(Unavailable):
        await post(f"http://{NOWHERE}/hook")
    assert asked == []


@pytest.mark.parametrize(
    "host", ["10.0.0.1", "[::1]", "localhost", "127.1", "2130706433", "0x7f.1"]
)
async def test_a_proxy_is_asked_for_no_private_address(host: str, asked: list[str]) -> None:
    with pytest.raises(Unavailable, match="private"):
        await post(f"http://{host}/hook")
    assert asked == []
    assert (await post(f"http://{host}/hook", allow_private=True)).status == 404


async def test_google_goes_through_the_proxy(asked: list[str]) -> None:
    store = GCSStore("bucket", token="anon", endpoint=f"http://{NOWHERE}")
    with contextlib.suppress(AtlasError):
        await asyncio.to_thread(store.stat, "a")
    assert asked and f"http://{NOWHERE}/" in asked[0]


async def test_the_hub_goes_through_the_proxy_and_its_client_reports_nothing_home(
    asked: list[str], tmp_path: Path
) -> None:
    from huggingface_hub import close_session, constants

    # the client of the process read the environment when it was first used
    close_session()
    store = HuggingFaceStore("me/data", "", token="hf_x", endpoint=f"http://{NOWHERE}")
    with contextlib.suppress(AtlasError):
        await asyncio.to_thread(store.stat, "a")
    close_session()
    assert asked and f"http://{NOWHERE}/" in asked[0]

    assert constants.HF_HUB_DISABLE_TELEMETRY
