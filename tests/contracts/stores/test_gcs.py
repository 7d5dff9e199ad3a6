"""What the store of Google Cloud Storage does when the service refuses, fails and answers late."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec.asyn
import pyarrow.parquet as pq
import pytest

from atlas.config import Settings
from atlas.errors import (
    ObjectExists,
    VaultDenied,
    VaultError,
    VaultUnavailable,
    VerificationFailed,
)
from atlas.vault import GCSVault, Vault
from atlas.vault.stores import gcs as product
from atlas.vault.stores.gcs import GCSStore
from atlas.vault.stores.retrying import PatientStore
from tests.support.impatience import no_pauses
from tests.support.servers import gcs_proxy
from tests.support.servers.gcs_proxy import Gcs, refusal
from tests.support.servers.http import Reply

#: Sizes that go in one request, and in several of a resumable session.
SMALL, LARGE = 1_000, 20_000_000
SIZES = pytest.mark.parametrize("size", [SMALL, LARGE], ids=["small", "large"])

#: More failures than anybody tries again.
FOR_EVER = 99

# gcsfs hands aiohttp its pieces as bytes, which warns above a megabyte
pytestmark = pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")


@pytest.fixture(autouse=True)
def _no_pauses() -> Iterator[None]:
    with no_pauses():
        yield


@pytest.fixture
def vault(bucket: GCSStore, tmp_path: Path) -> Vault:
    return Vault(PatientStore(bucket), tmp_path / "home")


@pytest.fixture
def other(bucket: GCSStore, gcs: Gcs) -> Iterator[GCSStore]:
    """The same place, as another process has it."""
    with another(bucket, gcs) as store:
        yield store


class another:
    """A store with a client of its own, whose connections are closed at the end."""

    def __init__(self, bucket: GCSStore, gcs: Gcs) -> None:
        prefix = bucket._root.removeprefix(f"{gcs_proxy.BUCKET}/").rstrip("/")
        self.store = GCSStore(gcs_proxy.BUCKET, prefix, token="anon", endpoint=gcs.url)

    def __enter__(self) -> GCSStore:
        return self.store

    def __exit__(self, *_: object) -> None:
        close(self.store)


def close(store: GCSStore) -> None:
    """Close what its client keeps open."""
    if "fs" in vars(store) and store.fs.session is not None:
        fsspec.asyn.sync(store.fs.loop, store.fs.session.close)


def source(folder: Path, size: int) -> Path:
    path = folder / f"source-{size}"
    path.write_bytes(os.urandom(size))
    return path


@SIZES
def test_a_create_only_write_is_refused_by_the_service_itself(
    vault: Vault, gcs: Gcs, size: int, tmp_path: Path
) -> None:
    """Nobody looks first: of two writers both would see nothing there."""
    path = source(tmp_path, size)
    vault.store.put_files([("taken", path)])
    assert gcs.counts["stat"] == 0
    with pytest.raises(ObjectExists):
        vault.store.put_files([("taken", source(tmp_path, size + 1))])
    assert vault.store.get_bytes("taken") == path.read_bytes()


@SIZES
def test_a_lost_answer_of_a_create_only_write_is_settled_by_reading(
    vault: Vault, gcs: Gcs, size: int, tmp_path: Path
) -> None:
    path = source(tmp_path, size)
    if size == SMALL:
        gcs.faults["upload"].append(gcs.lost)
    else:  # of the last of three pieces
        lose = [lambda: None, lambda: None, lambda: gcs.faults["chunk"].append(gcs.lost)]
        gcs.before["chunk"].extend(lose)
    vault.store.put_files([("once", path)])
    assert vault.store.get_bytes("once") == path.read_bytes()
    assert (gcs.counts["stat"], gcs.counts["chunk"]) == (1, 0 if size == SMALL else 3)
    with pytest.raises(ObjectExists):
        vault.store.put_files([("once", path)])


def test_what_another_writer_created_meanwhile_is_not_taken_for_ours(
    vault: Vault, bucket: GCSStore, gcs: Gcs
) -> None:
    """Though it has the same content, and our own first request had no answer."""
    name = f"{bucket._root}x".split("/", 1)[1]
    gcs.faults["upload"].append(Reply(cut=True))
    gcs.before["upload"].extend([lambda: None, lambda: gcs.put(name, b"same")])
    with pytest.raises(ObjectExists):
        vault.store.put_bytes("x", b"same", overwrite=False)


def test_a_swap_whose_answer_was_lost_is_known_for_our_own(vault: Vault, gcs: Gcs) -> None:
    gcs.faults["upload"].append(gcs.lost)
    assert vault.store.compare_and_swap("n", None, b"1")
    gcs.faults["upload"].append(gcs.lost)
    assert vault.store.compare_and_swap("n", b"1", b"2")
    assert vault.store.get_bytes("n") == b"2"


def test_a_lost_answer_of_a_removal_is_no_error(vault: Vault, gcs: Gcs) -> None:
    vault.store_binary("x", b"1")
    gcs.faults["delete"].append(gcs.lost)
    vault.store.delete(["x"])
    assert vault.list_files() == []


def test_a_document_that_is_replaced_while_it_is_read_comes_back_whole(
    vault: Vault, gcs: Gcs, other: GCSStore
) -> None:
    """Without versions a bucket forgets the generation that was looked up a moment ago."""
    vault.store_json("x.json", 1)
    with ThreadPoolExecutor(1) as pool:
        writes = [pool.submit(other.put_bytes, "x.json", b"%d" % n) for n in range(2, 30)]
        while not all(write.done() for write in writes):
            assert vault.fetch_json("x.json") in range(1, 30)
    assert vault.fetch_json("x.json") == 29


def test_a_reader_whose_object_is_replaced_gets_an_error_not_a_mixture(vault: Vault) -> None:
    vault.store_binary("x", b"a" * 100)
    reader = vault.store.open("x")
    assert reader is not None
    with reader:
        assert reader.read(50) == b"a" * 50
        vault.store_binary("x", b"b" * 100)
        with pytest.raises(VaultUnavailable):
            reader.read(50)


@pytest.mark.parametrize("fault", [Reply(cut=True), refusal(503)], ids=["cut", "503"])
def test_an_upload_that_is_broken_off_leaves_nothing(
    vault: Vault, gcs: Gcs, tmp_path: Path, fault: Reply
) -> None:
    path = source(tmp_path, LARGE)
    left = gcs.open_sessions  # by other tests, whose uploads died
    gcs.before["chunk"].extend(
        [lambda: None, lambda: gcs.faults["chunk"].extend([fault] * FOR_EVER)]
    )
    for put in (
        lambda: vault.store.put_files([("large", path)]),
        lambda: vault.store_binary("large", path.read_bytes()),
    ):
        with pytest.raises(VaultUnavailable):
            put()
        assert vault.list_files() == []
        assert vault.store.stat("large") is None
        assert gcs.open_sessions == left
    gcs.reset()
    vault.store.put_files([("large", path)])
    assert vault.store.get_bytes("large") == path.read_bytes()


@SIZES
def test_an_upload_that_is_stored_otherwise_is_told_and_not_left_under_its_name(
    vault: Vault, gcs: Gcs, size: int, tmp_path: Path
) -> None:
    path = source(tmp_path, size)
    gcs.flips = 1
    with pytest.raises(VerificationFailed):
        vault.store.put_files([("x", path)])
    assert vault.list_files() == []
    gcs.flips = 1
    with pytest.raises(VerificationFailed):
        vault.store_binary("y", path.read_bytes())


@pytest.mark.parametrize("call", ["put_files", "compare_and_swap", "append_metrics"])
def test_what_arrives_damaged_is_refused_and_never_there(
    vault: Vault, gcs: Gcs, call: str, tmp_path: Path
) -> None:
    """A writer that dies before it has looked would leave it under its name."""
    gcs.flips = 1
    row = {"video_id": "V", "timestamp": "2026-01-15T10:00:00Z", "views": 1}
    with pytest.raises(VerificationFailed):
        match call:
            case "put_files":
                vault.store.put_files([("x", source(tmp_path, 100))])
            case "compare_and_swap":
                vault.store.compare_and_swap("x", None, b"1")
            case _:
                vault.append_metrics([row])
    assert gcs.counts["upload"] == 1
    assert gcs.counts["delete"] == 0
    assert vault.list_files() == []


def test_rows_that_were_stored_otherwise_are_delivered_by_the_next_call(
    vault: Vault, gcs: Gcs
) -> None:
    """An object under their name counts as delivered, and must be theirs."""
    gcs.flips = 1
    with pytest.raises(VerificationFailed):
        vault.append_metrics([{"video_id": "V", "timestamp": "2026-01-15T10:00:00Z", "views": 1}])
    vault.flush()
    (key,) = vault.list_files("metrics")
    table = pq.read_table(vault.fetch_binary(key))
    assert table["views"].to_pylist() == [1]


def test_a_swap_that_is_stored_otherwise_is_told(vault: Vault, gcs: Gcs) -> None:
    gcs.flips = 1
    with pytest.raises(VerificationFailed):
        vault.store.compare_and_swap("n", None, b"1")


def test_a_document_that_arrives_otherwise_is_told(vault: Vault, gcs: Gcs) -> None:
    vault.store_json("x.json", [1])
    md5 = base64.b64encode(hashlib.md5(b"[1]").digest()).decode()
    said = {"x-goog-hash": f"crc32c=AAAAAA==,md5={md5}"}
    gcs.faults["read"].extend([Reply(200, b"[2]", said)] * FOR_EVER)
    with pytest.raises(VaultUnavailable):
        vault.fetch_json("x.json")


def test_a_listing_shows_what_another_writer_just_did(vault: Vault, other: GCSStore) -> None:
    vault.store_binary("d/1", b"x")
    assert vault.list_files("d") == ["d/1"]
    other.put_bytes("d/2", b"x")
    assert vault.list_files("d") == ["d/1", "d/2"]
    assert vault.store.stat("d/2") is not None
    other.delete(["d/1"])
    assert vault.list_files("d") == ["d/2"]
    assert vault.store.stat("d/1") is None
    assert vault.fetch_binary("d/1") is None


def test_a_listing_is_whole_past_a_page(vault: Vault, gcs: Gcs) -> None:
    keys = [f"d{n % 3}/ü{n:03}" for n in range(30)]
    vault.store_batch([(key, b"x") for key in keys])
    gcs.page = 4
    gcs.counts.clear()
    assert vault.list_files() == sorted(keys)
    assert vault.list_files("d1/") == sorted(key for key in keys if key.startswith("d1/"))
    assert gcs.counts["list"] == 8 + 3


def test_a_listing_that_fails_on_its_second_page_is_an_error(vault: Vault, gcs: Gcs) -> None:
    vault.store_batch([(f"d/{n}", b"x") for n in range(6)])
    gcs.page = 4
    gcs.before["list"].extend(
        [lambda: None, lambda: gcs.faults["list"].extend([refusal(503)] * FOR_EVER)]
    )
    with pytest.raises(VaultUnavailable):
        vault.list_files()


def calls(vault: Vault) -> list[tuple[str, Callable[[], Any]]]:
    """What a vault does, by the name of the request that fails first."""
    return [
        ("read", lambda: vault.fetch_json("absent.json")),
        ("stat", lambda: vault.store.stat("absent")),
        ("stat", lambda: vault.store.open("absent")),
        ("list", lambda: vault.list_files()),
        ("upload", lambda: vault.store_json("x.json", 1)),
        ("upload", lambda: vault.store.put_bytes("y", b"1", overwrite=False)),
        ("upload", lambda: vault.store.compare_and_swap("z", None, b"1")),
        ("delete", lambda: vault.store.delete(["x.json"])),
    ]


BUSY = [refusal(503), refusal(429, retry_after="0"), refusal(500), Reply(cut=True)]


@pytest.mark.parametrize("fault", BUSY, ids=["503", "429", "500", "cut"])
def test_a_service_that_is_busy_for_a_moment_is_asked_again(
    vault: Vault, gcs: Gcs, fault: Reply
) -> None:
    for name, call in calls(vault):
        gcs.faults[name].append(fault)
        call()
        assert not gcs.faults[name]
    assert sorted(vault.list_files()) == ["y", "z"]


@pytest.mark.parametrize("fault", BUSY, ids=["503", "429", "500", "cut"])
def test_a_service_that_stays_busy_is_a_failure_and_never_a_missing_object(
    vault: Vault, gcs: Gcs, fault: Reply
) -> None:
    for name, call in calls(vault):
        gcs.faults[name].extend([fault] * FOR_EVER)
        with pytest.raises(VaultUnavailable):
            call()
        gcs.faults[name].clear()
    assert vault.list_files() == []


@pytest.mark.parametrize("status", [401, 403])
def test_a_refusal_of_the_credentials_fails_at_once(vault: Vault, gcs: Gcs, status: int) -> None:
    for name, call in calls(vault):
        gcs.counts.clear()
        gcs.faults[name].extend([refusal(status, "no access")] * FOR_EVER)
        with pytest.raises(VaultDenied) as caught:
            call()
        assert gcs.counts[name] == 1
        assert caught.value.hint
        gcs.faults[name].clear()


def test_a_missing_bucket_is_told_by_its_name(vault: Vault, gcs: Gcs, tmp_path: Path) -> None:
    store = GCSStore("no-such-bucket", token="anon", endpoint=gcs.url)
    try:
        for name, call in calls(Vault(store, tmp_path / "other")):
            if name == "delete":
                continue  # of what is not there nothing has to be removed
            with pytest.raises(VaultError, match="no-such-bucket"):
                call()
    finally:
        close(store)


@pytest.mark.parametrize("name", ["read", "stat", "list", "upload", "delete"])
def test_a_service_that_does_not_answer_is_given_up(
    bucket: GCSStore, gcs: Gcs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    monkeypatch.setattr(product, "_SILENCE_SECONDS", 0.1)
    with another(bucket, gcs) as store:
        (call,) = [call for what, call in calls(Vault(store, tmp_path)) if what == name][:1]
        gcs.faults[name].extend([Reply(hang=True)] * FOR_EVER)
        with pytest.raises(VaultUnavailable):
            call()


@pytest.fixture
def key_file(gcs: Gcs, tmp_path: Path) -> Path:
    """A service account's key file, as the console hands it out, and the service that knows its key."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    gcs.account_key = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    gcs.bearer = "ya29.test"
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path = tmp_path / "account.json"
    account = {
        "type": "service_account",
        "project_id": "atlas-test",
        "private_key_id": "k1",
        "private_key": private.decode(),
        "client_email": "atlas@atlas-test.iam.gserviceaccount.com",
        "client_id": "1",
        "token_uri": f"{gcs.url}/token",
    }
    path.write_text(json.dumps(account))
    return path


def with_key(gcs: Gcs, path: Path, home: Path) -> GCSVault:
    settings = Settings(
        gcs_bucket_name=gcs_proxy.BUCKET,
        google_application_credentials=path,
        atlas_home=home,
        vault_prefix=f"run/{home.name}",
    )
    return GCSVault(settings=settings, endpoint=gcs.url)


def test_a_key_file_of_the_settings_is_what_requests_are_signed_with(
    gcs: Gcs, key_file: Path, tmp_path: Path
) -> None:
    vault = with_key(gcs, key_file, tmp_path)
    try:
        vault.store_json("x.json", 1)
        assert vault.fetch_json("x.json") == 1
        assert vault.append_metrics([{"video_id": "V", "views": 1}]) == 1
        assert gcs.counts["token"] == 1
    finally:
        close(vault.store)


def test_a_key_that_was_revoked_is_denied_and_says_which_setting(
    gcs: Gcs, key_file: Path, tmp_path: Path
) -> None:
    vault = with_key(gcs, key_file, tmp_path)
    gcs.faults["token"].extend([Reply(400, b'{"error": "invalid_grant"}')] * FOR_EVER)
    try:
        with pytest.raises(VaultDenied):
            vault.fetch_json("x.json")
    finally:
        close(vault.store)


@pytest.mark.parametrize("content", [None, "{", "{}", '{"type": "service_account"}'])
def test_a_key_file_that_is_missing_or_none_is_denied_without_asking_anybody(
    gcs: Gcs, tmp_path: Path, content: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is no file gcsfs takes for a token, and asks Google about it."""
    asked: list[str] = []
    monkeypatch.setattr("gcsfs.credentials.requests.get", lambda url, **_: asked.append(url))
    path = tmp_path / "key.json"
    if content is not None:
        path.write_text(content)
    vault = with_key(gcs, path, tmp_path)
    with pytest.raises(VaultDenied) as caught:
        vault.fetch_json("x.json")
    assert "GOOGLE_APPLICATION_CREDENTIALS" in str(caught.value)
    assert not gcs.counts
    assert not asked
