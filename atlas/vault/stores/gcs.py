"""Google Cloud Storage through gcsfs.

Facts used here: reads after writes, deletes and listings are strongly consistent; an upload shows only
when it is finished; ``ifGenerationMatch`` makes a write conditional (cloud.google.com/storage/docs).
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import uuid
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from functools import cached_property, partial
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from atlas.errors import (
    VaultDenied,
    VaultError,
    VaultFull,
    VaultUnavailable,
    VerificationFailed,
)
from atlas.forks import renew_in_child
from atlas.types import ObjectInfo
from atlas.vault.layout import check_folder, check_key
from atlas.vault.stores.base import FsspecStore, Source, local_copy, taken

#: Where the service is, unless another endpoint is named.
_GOOGLE = "https://storage.googleapis.com"
#: Seconds without a byte after which a request is given up.
_SILENCE_SECONDS = 60.0
#: Bytes of an upload request; a multiple of 256 KiB.
_CHUNK_BYTES = 8 << 20
#: Objects up to this size are sent in one request.
_ONE_REQUEST_BYTES = 5 << 20
#: Metadata by which a writer knows its own object again.
_MARK = "atlas-put"


class GCSStore(FsspecStore):
    """Objects of a bucket, under a prefix.

    ``token`` is what gcsfs takes (a path to a key file); None means Google's default credentials.
    """

    def __init__(
        self,
        bucket: str,
        prefix: str = "",
        *,
        token: str | None = None,
        endpoint: str | None = None,
    ) -> None:
        root = "/".join(part for part in (bucket, check_folder(prefix)) if part)
        super().__init__(f"gs://{root}", f"gs://{root}/")
        self._bucket, self._root = bucket, f"{root}/"
        self._token, self._endpoint = token, endpoint
        # the client has a thread, and refuses to work in a forked child
        renew_in_child(self, lambda store: store.__dict__.pop("fs", None))

    @cached_property
    def fs(self) -> Any:
        """The file system of gcsfs: no listing is cached, every upload is compared by MD5."""
        import aiohttp

        # the plain JSON interface: the class gcsfs exports opens a gRPC channel beside it
        from gcsfs.core import GCSFileSystem

        class Once(GCSFileSystem):  # type: ignore[misc]  # gcsfs ships no types
            """Tries once: `atlas.vault.stores.retrying` repeats, and logs what it does."""

            _request = GCSFileSystem._request.__wrapped__
            _get_file_request = GCSFileSystem._get_file_request.__wrapped__
            _get_file_concurrent = GCSFileSystem._get_file_concurrent.__wrapped__

        with self._translated(""), self._key_file_read():
            return Once(
                token=self._token,
                endpoint_url=self._endpoint,
                consistency="md5",
                use_listings_cache=False,
                skip_instance_cache=True,
                # proxies of the environment, as for everything else that goes out
                session_kwargs={"trust_env": True},
                requests_timeout=aiohttp.ClientTimeout(
                    total=None, sock_connect=_SILENCE_SECONDS, sock_read=_SILENCE_SECONDS
                ),
            )

    def stat(self, key: str) -> ObjectInfo | None:
        """Size and time as the bucket knows them now, or None."""
        key = check_key(key)
        entry = self._entry(key)
        return None if entry is None else _info(key, entry)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Every object under the folder, in key order."""
        prefix = check_folder(prefix)
        folder = self._root + (f"{prefix}/" if prefix else "")
        with self._translated(prefix):
            try:
                found = self.fs.find(folder, detail=True)
            except FileNotFoundError:
                self._bucket_exists()
                return
        for path, entry in sorted(found.items()):
            # an object whose name ends in a slash only stands for a folder
            if path.startswith(folder) and entry["type"] == "file" and not path.endswith("/"):
                yield _info(path.removeprefix(self._root), entry)

    def put_many(self, items: Sequence[tuple[str, BinaryIO]]) -> None:
        """Write each object whole, replacing what is there."""
        for key, source in items:
            key = check_key(key)
            with local_copy(source) as path, self._translated(key):
                self._upload(key, path, uuid.uuid4().hex)

    def delete(self, keys: Iterable[str]) -> None:
        """Remove objects; those already gone are no error."""
        for key in map(check_key, keys):
            with self._translated(key), contextlib.suppress(FileNotFoundError):
                self.fs.rm_file(self._root + key)

    def compare_and_swap(self, key: str, expected: bytes | None, new: bytes) -> bool:
        """Replace the object only if its content is ``expected``, by its generation."""
        key = check_key(key)
        entry = self._entry(key)
        # the generation is taken before the content: if that changed in between, the write is refused
        if self.get_bytes(key) != expected:
            return False
        mark = uuid.uuid4().hex
        with self._settled(key, mark):
            try:
                self._send(key, new, mark, "0" if entry is None else str(entry["generation"]))
            except FileExistsError:
                return False
        return True

    def get_bytes(self, key: str) -> bytes | None:
        """The object's content, or None: one request, so that no writer can replace it in between.

        Its MD5 is compared; `VaultUnavailable` where something else arrived.
        """
        key = check_key(key)
        with self._translated(key):
            try:
                headers, content = self.fs.call("GET", self.fs.url(self._root + key))
            except FileNotFoundError:
                self._bucket_exists()
                return None
        sums = [
            one.strip() for said in headers.getall("x-goog-hash", []) for one in said.split(",")
        ]
        # composed objects have none
        if any(one.startswith("md5=") and one != f"md5={_md5(content)}" for one in sums):
            raise VaultUnavailable(f"{key}: what arrived is not what is stored", path=key)
        return bytes(content)

    def _create(self, key: str, source: BinaryIO) -> None:
        mark = uuid.uuid4().hex
        with local_copy(source) as path, self._settled(key, mark):
            try:
                self._upload(key, path, mark, create=True)
            except FileExistsError:
                raise taken(key) from None

    @contextlib.contextmanager
    def _settled(self, key: str, mark: str) -> Iterator[None]:
        """No error, if the answer is not known and a look shows that the object is the one written."""
        try:
            with self._translated(key):
                yield
        except VaultUnavailable:
            if not self._is_mine(key, mark):
                raise

    def _is_mine(self, key: str, mark: str) -> bool:
        """Whether the object is our own. Content is no proof: another writer may have written the same."""
        entry = self._entry(key)
        return entry is not None and (entry.get("metadata") or {}).get(_MARK) == mark

    def _upload(self, key: str, path: Path, mark: str, *, create: bool = False) -> None:
        """Write an object from a file; with ``create`` FileExistsError if it is there."""
        from gcsfs.retry import ChecksumError

        if path.stat().st_size <= _ONE_REQUEST_BYTES:
            self._send(key, path.read_bytes(), mark, "0" if create else None)
            return
        try:
            # an upload that breaks off leaves nothing: gcsfs discards the session
            self.fs.put_file(
                str(path),
                self._root + key,
                chunksize=_CHUNK_BYTES,
                metadata={_MARK: mark},
                mode="create" if create else "overwrite",
            )
        except ChecksumError:
            self._remove_damaged(key, mark)
            raise
        except FileNotFoundError as error:
            raise self._no_bucket() from error

    def _send(self, key: str, content: bytes, mark: str, generation: str | None) -> None:
        """Write an object in one request, if its generation is the one given (0: there is none).

        gcsfs's own has a fixed boundary, which content may hold.
        """
        from gcsfs.retry import HttpError

        condition = {} if generation is None else {"ifGenerationMatch": generation}
        name = (self._root + key).removeprefix(f"{self._bucket}/")
        # with its MD5 the service refuses to store what arrives otherwise
        resource = {"name": name, "metadata": {_MARK: mark}, "md5Hash": _md5(content)}
        try:
            self.fs.call(
                "POST",
                self.fs.base.replace("/storage/v1/", "/upload/storage/v1/") + "b/{}/o",
                self._bucket,
                uploadType="multipart",
                headers={"Content-Type": f'multipart/related; boundary="{mark}"'},
                data=_multipart(mark, resource, content),
                json_out=True,
                **condition,
            )
        except FileNotFoundError as error:
            raise self._no_bucket() from error
        except HttpError as error:
            if error.code == 400 and "MD5 hash" in str(error.message):
                raise VerificationFailed(
                    f"{key}: what arrived is not what was sent", path=key
                ) from error
            raise

    def _remove_damaged(self, key: str, mark: str) -> None:
        """Else whoever tries again would meet it and take it for what he wants to write."""
        if self._is_mine(key, mark):
            self.fs.rm_file(self._root + key)

    def _open(self, key: str) -> Source:
        entry = self._entry(key)
        if entry is None:
            raise FileNotFoundError(key)
        fetch = partial(self.fs.cat_file, self._root + key, generation=entry["generation"])
        return Source(int(entry["size"]), lambda start, end: fetch(start=start, end=end))

    def _open_known(self, key: str, size: int) -> Source:
        fetch = partial(self.fs.cat_file, self._root + key)
        return Source(size, lambda start, end: fetch(start=start, end=end), seen=False)

    def _entry(self, key: str) -> dict[str, Any] | None:
        """The object's resource: one request, where gcsfs's own ``info`` lists beside it."""
        name = (self._root + key).removeprefix(f"{self._bucket}/")
        with self._translated(key):
            try:
                entry: dict[str, Any] = self.fs.call(
                    "GET", "b/{}/o/{}", self._bucket, name, json_out=True
                )
            except FileNotFoundError:
                self._bucket_exists()
                return None
        return entry

    def _bucket_exists(self) -> None:
        """A missing bucket is a failure, not a vault without objects."""
        try:
            self.fs.call("GET", "b/{}/o", self._bucket, maxResults=1)
        except FileNotFoundError as error:
            raise self._no_bucket() from error

    def _no_bucket(self) -> VaultError:
        return VaultError(
            f"there is no bucket {self._bucket}", hint="create it, or correct GCS_BUCKET_NAME"
        )

    @contextlib.contextmanager
    def _key_file_read(self) -> Iterator[None]:
        """gcsfs takes a path without a file for an access token, and sends it to Google to ask about it."""
        path = self._token
        try:
            if path not in (None, "anon"):
                json.loads(Path(path).read_bytes())
            yield
        except (OSError, ValueError, KeyError) as error:
            # not as the cause: a parser's error holds what it was to parse
            raise VaultDenied(
                f"gs://{self._bucket}: {path} is no readable key file ({type(error).__name__})",
                hint="set GOOGLE_APPLICATION_CREDENTIALS to a readable key file",
            ) from None

    @contextlib.contextmanager
    def _translated(self, key: str) -> Iterator[None]:
        try:
            yield
        except (VaultError, FileExistsError, FileNotFoundError):
            raise
        except Exception as error:
            host = urlsplit(self._endpoint or _GOOGLE).netloc
            translated = _vault_error(error, key, self._bucket, host)
            if translated is None:
                raise  # nothing gcsfs is known to raise: a mistake in a program
            raise translated from error


def _info(key: str, entry: dict[str, Any]) -> ObjectInfo:
    updated = entry.get("updated")
    return ObjectInfo(key, int(entry["size"]), datetime.fromisoformat(updated) if updated else None)


def _md5(content: bytes) -> str:
    return base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()


def _multipart(boundary: str, resource: dict[str, Any], content: bytes) -> bytes:
    """The body of an upload in one request: the object's resource, then its content."""
    lines = [
        f"--{boundary}",
        "Content-Type: application/json; charset=UTF-8",
        "",
        json.dumps(resource),
        f"--{boundary}",
        "Content-Type: application/octet-stream",
        "",
        "",
    ]
    return "\r\n".join(lines).encode() + content + f"\r\n--{boundary}--".encode()


def _vault_error(error: Exception, key: str, bucket: str, host: str) -> VaultError | None:
    """What gcsfs raised, by status and type; its own text is left out, it may quote the request."""
    import aiohttp
    import requests
    from fsspec.exceptions import FSTimeoutError
    from gcsfs.retry import ChecksumError, HttpError
    from google.auth.exceptions import GoogleAuthError, TransportError

    path = key or None
    code = getattr(error, "code", None) if isinstance(error, HttpError) else None
    status = int(code) if code is not None and str(code).isdigit() else None
    where = f"gs://{bucket}, {key}" if key else f"gs://{bucket}"
    if isinstance(error, ChecksumError):
        return VerificationFailed(f"{where}: stored is not what was sent", path=path)
    # a plain OSError without a number is how gcsfs reports 403, with the service's words
    refused = type(error) is OSError and error.errno is None
    if status in (413, 507) or (refused and "quota" in str(error).lower()):
        return VaultFull(f"{where}: the quota is used up", path=path)
    if status in (401, 403) or refused:
        return VaultDenied(f"{where}: the service refused the credentials", path=path)
    if isinstance(error, GoogleAuthError) and not isinstance(error, TransportError):
        return VaultDenied(
            f"{where}: no usable Google credentials",
            path=path,
            hint="set GOOGLE_APPLICATION_CREDENTIALS to a readable key file",
        )
    unclear = (aiohttp.ClientError, requests.RequestException, TimeoutError, FSTimeoutError)
    if isinstance(error, (*unclear, TransportError, OSError)):
        return VaultUnavailable(
            f"{where}: no answer from {host} ({type(error).__name__})", path=path
        )
    if status is not None and (status in (408, 429) or status >= 500):
        return VaultUnavailable(f"{where}: the service answered {status}", path=path)
    if not isinstance(error, HttpError | ValueError | RuntimeError):
        return None
    said = f"the service answered {status}" if status else type(error).__name__
    return VaultError(f"{where}: {said}", path=path)
