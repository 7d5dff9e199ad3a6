"""Google Cloud Storage on loopback: an emulator, and in front of it a proxy that adds what it leaves out.

Preconditions, pages of listings, generations of reads, resumable sessions that may be cancelled, asked
again or resumed (cloud.google.com/storage/docs/performing-resumable-uploads), credentials, and failures.
"""

from __future__ import annotations

import http.client
import json
import logging
import re
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlencode, urlsplit

from gcp_storage_emulator import server as emulator
from google.auth import exceptions, jwt

from tests.support.servers.http import LoopbackServer, Reply, Request, loopback_server

BUCKET = "atlas-contract"

#: For whom google-auth signs, wherever the key file sends it.
_AUDIENCE = "https://oauth2.googleapis.com/token"

#: What each request is, by method, path and query; the names are those of `Gcs.faults` and `Gcs.counts`.
ROUTES = [
    ("token", "POST", r"/token", ""),
    ("chunk", "POST|PUT", r"/upload/storage/v1/b/[^/]+/o", "upload_id"),
    ("cancel", "DELETE", r"/upload/storage/v1/b/[^/]+/o", "upload_id"),
    ("start", "POST", r"/upload/storage/v1/b/[^/]+/o", "uploadType=resumable"),
    ("upload", "POST", r"/upload/storage/v1/b/[^/]+/o", ""),
    ("list", "GET", r"/storage/v1/b/[^/]+/o", ""),
    ("read", "GET", r"/(?:download/)?storage/v1/b/[^/]+/o/(?P<name>.+)", "alt=media"),
    ("stat", "GET", r"/storage/v1/b/[^/]+/o/(?P<name>.+)", ""),
    ("delete", "DELETE", r"/storage/v1/b/[^/]+/o/(?P<name>.+)", ""),
    ("bucket", "GET", r"/storage/v1/b/[^/]+", ""),
]


def refusal(status: int, message: str = "refused", **headers: str) -> Reply:
    """An error as the service words it; ``retry_after`` becomes the header ``retry-after``."""
    body = json.dumps({"error": {"code": status, "message": message}}).encode()
    said = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status, body, {"content-type": "application/json", **said})


class Gcs:
    """The service and what may go wrong with it.

    ``faults[name]`` is a queue of replies given in place of the next answers to requests of that name;
    one that is ``lost`` is left out after the request was carried out. ``before[name]`` is a queue of
    calls made before the next ones are. ``trouble`` is asked by name where no fault is queued. ``counts``
    has the requests by name. With ``flips`` left, so many objects are stored with their last byte changed.
    ``bearer`` is the token that every request must bear.
    """

    lost = Reply(cut=True)

    def __init__(self, server: LoopbackServer, behind: tuple[str, int]) -> None:
        self.url = server.url
        self.loopback, self._behind = server, behind
        self._sessions: dict[str, dict[str, str]] = {}
        self.reset()
        server.respond = self._answer

    def reset(self) -> None:
        """Serve faultlessly; objects and open sessions stay."""
        self.page = 1000
        self.counts: Counter[str] = Counter()
        self.faults: dict[str, deque[Reply]] = defaultdict(deque)
        self.before: dict[str, deque[Callable[[], object]]] = defaultdict(deque)
        self.trouble: Callable[[str], Reply | None] = lambda name: None
        self.flips = 0
        self.bearer: str | None = None
        #: The public key (PEM) of the one service account, which draws ``bearer`` from `/token`.
        self.account_key = b""

    @property
    def open_sessions(self) -> int:
        """Resumable uploads that were begun and neither finished nor cancelled."""
        return sum("reply" not in session for session in self._sessions.values())

    def content(self, name: str) -> bytes | None:
        """What the bucket holds under that name."""
        reply = self._forward("GET", f"/storage/v1/b/{BUCKET}/o/{quote(name, safe='')}?alt=media")
        return reply.body if reply.status == 200 else None

    def put(self, name: str, content: bytes) -> None:
        """Store an object, as another writer may at any time."""
        query = urlencode({"uploadType": "media", "name": name})
        reply = self._forward("POST", f"/upload/storage/v1/b/{BUCKET}/o?{query}", content)
        assert reply.status == 200, reply

    def names(self, prefix: str = "") -> list[str]:
        """The names that begin so."""
        query = urlencode({"prefix": prefix})
        found = json.loads(self._forward("GET", f"/storage/v1/b/{BUCKET}/o?{query}").body)
        return sorted(item["name"] for item in found["items"])

    def _answer(self, request: Request) -> Reply:
        self.loopback.requests.clear()  # the bodies of a long run are many
        url = urlsplit(request.path)
        found = (
            (name, match)
            for name, methods, pattern, said in ROUTES
            if request.method in methods.split("|")
            and said in url.query
            and (match := re.fullmatch(pattern, url.path))
        )
        name, match = next(found, ("", None))
        if match is None:
            return refusal(501, f"the proxy does not know {request.method} {url.path}")
        self.counts[name] += 1
        if self.before[name]:
            self.before[name].popleft()()
        fault = self.faults[name].popleft() if self.faults[name] else self.trouble(name)
        if fault is not None and fault is not self.lost:
            return fault
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        key = unquote(match.groupdict().get("name") or "")
        if name == "token":
            reply = self._token(request)
        elif self.bearer and request.headers.get("authorization") != f"Bearer {self.bearer}":
            reply = refusal(401, "Invalid Credentials")
        else:
            reply = getattr(self, f"_{name}")(request, query, key)
        return self.lost if fault is self.lost else reply

    def _token(self, request: Request) -> Reply:
        """A token for an assertion that the account has signed (RFC 7523)."""
        said = parse_qs(request.body.decode())
        try:
            jwt.decode(said["assertion"][0], self.account_key, audience=_AUDIENCE)
        except (ValueError, KeyError, exceptions.GoogleAuthError):
            return Reply(400, b'{"error": "invalid_grant"}')
        granted = {"access_token": self.bearer, "expires_in": 3600, "token_type": "Bearer"}
        return _json(granted)

    def _bucket(self, request: Request, query: Mapping[str, str], key: str) -> Reply:
        return self._pass(request)

    def _stat(self, request: Request, query: Mapping[str, str], key: str) -> Reply:
        return self._pass(request)

    def _read(self, request: Request, query: Mapping[str, str], key: str) -> Reply:
        if query.get("generation", self._generation(key)) != self._generation(key):
            return refusal(404, "No such object")
        reply = self._pass(request)
        wanted = re.match(r"bytes=(\d+)-", request.headers.get("range", ""))
        if wanted and reply.status == 206 and not reply.body:
            return refusal(416, "Requested range not satisfiable")
        return reply

    def _delete(self, request: Request, query: Mapping[str, str], key: str) -> Reply:
        return self._unless_refused(query, key) or self._pass(request)

    def _list(self, request: Request, query: Mapping[str, str], key: str) -> Reply:
        reply = self._pass(request)
        if reply.status != 200:
            return reply
        whole = json.loads(reply.body)
        found = [(item["name"], "items", item) for item in whole["items"]]
        found += [(prefix, "prefixes", prefix) for prefix in whole["prefixes"]]
        start = query.get("pageToken", "")
        found = sorted((one for one in found if one[0] > start), key=lambda one: one[0])
        size = min(int(query.get("maxResults", self.page)), self.page)
        page: dict[str, Any] = {"kind": "storage#objects"}
        for _, kind, one in found[:size]:
            page.setdefault(kind, []).append(one)
        if found[size:]:
            page["nextPageToken"] = found[size - 1][0]
        return _json(page)

    def _upload(self, request: Request, query: Mapping[str, str], key: str) -> Reply:
        name = query.get("name") or str(_resource_in(request.body)["name"])
        if refused := self._unless_refused(query, name):
            return refused
        reply = self._pass(self._flipped(request, -12))
        if reply.status == 409 and b"MD5 hash" in reply.body:
            return refusal(
                400, json.loads(reply.body)["error"]["message"]
            )  # as the service words it
        return reply

    def _start(self, request: Request, query: Mapping[str, str], key: str) -> Reply:
        name = query.get("name") or str(json.loads(request.body)["name"])
        if refused := self._unless_refused(query, name):
            return refused
        reply = self._pass(request)
        if location := reply.headers.get("location"):
            upload = parse_qs(urlsplit(location).query)["upload_id"][0]
            self._sessions[upload] = {**query, "name": name, "end": "0"}
        return reply

    def _chunk(self, request: Request, query: Mapping[str, str], key: str) -> Reply:
        session = self._sessions.get(query["upload_id"])
        if session is None:
            return refusal(410, "no such upload session")
        if "reply" in session:  # finished before: told again
            return Reply(200, session["reply"].encode(), {"content-type": "application/json"})
        span = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", request.headers["content-range"])
        assert span is not None, request.headers["content-range"]
        received = int(session["end"])
        if int(span[2]) < received:  # had before, its answer was lost
            return Reply(308, headers={"range": f"bytes=0-{received - 1}"})
        last = str(int(span[2]) + 1) == span[3]
        if last and (refused := self._unless_refused(session, session["name"])):
            del self._sessions[query["upload_id"]]
            return refused
        reply = self._pass(self._flipped(request, -1) if last else request)
        if reply.status == 200:
            session["reply"] = reply.body.decode()
        elif reply.status == 308:
            session["end"] = str(int(span[2]) + 1)
        return reply

    def _cancel(self, request: Request, query: Mapping[str, str], key: str) -> Reply:
        self._sessions.pop(query["upload_id"], None)
        return Reply(499)

    def _unless_refused(self, query: Mapping[str, str], name: str) -> Reply | None:
        wanted = query.get("ifGenerationMatch")
        if wanted is not None and wanted != self._generation(name):
            return refusal(412, "At least one of the pre-conditions you specified did not hold.")
        return None

    def _generation(self, name: str) -> str:
        reply = self._forward("GET", f"/storage/v1/b/{BUCKET}/o/{quote(name, safe='')}")
        return str(json.loads(reply.body)["generation"]) if reply.status == 200 else "0"

    def _flipped(self, request: Request, at: int) -> Request:
        """The request, with the byte there changed if a flip is left. Before -12 a multipart body ends."""
        if not self.flips:
            return request
        self.flips -= 1
        body = bytearray(request.body)
        body[at] ^= 1
        return replace(request, body=bytes(body))

    def _pass(self, request: Request) -> Reply:
        return self._forward(request.method, request.path, request.body, request.headers)

    def _forward(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> Reply:
        connection = http.client.HTTPConnection(*self._behind)
        try:
            # with the client's Host: the emulator makes the addresses of upload sessions from it
            kept = {name: value for name, value in (headers or {}).items() if name != "connection"}
            connection.request(method, path, body, kept)
            reply = connection.getresponse()
            said = {name.lower(): value for name, value in reply.getheaders()}
            for own in ("content-length", "server", "date"):
                said.pop(own, None)
            return Reply(reply.status, reply.read(), said)
        finally:
            connection.close()


def _resource_in(multipart: bytes) -> dict[str, Any]:
    start = multipart.index(b"{")
    text = multipart[start : start + 65_536].decode(errors="replace")
    resource: dict[str, Any] = json.JSONDecoder().raw_decode(text)[0]
    return resource


def _json(value: Any) -> Reply:
    return Reply(200, json.dumps(value).encode(), {"content-type": "application/json"})


@contextmanager
def running() -> Iterator[Gcs]:
    """The service with one bucket, `BUCKET`."""
    logging.getLogger("gcp_storage_emulator").setLevel(logging.CRITICAL)
    logging.getLogger("api.object").setLevel(logging.CRITICAL)
    with emulator.create_server("127.0.0.1", 0, in_memory=True, default_bucket=BUCKET) as behind:
        # else each write writes the records of all objects, for a next start that there is not
        behind._storage._write_config_to_file = lambda: None
        # no public name tells the port that was free
        address = behind._api._httpd.server_address
        with loopback_server() as server:
            yield Gcs(server, address)
