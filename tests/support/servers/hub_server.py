"""A small Hugging Face Hub on loopback: one dataset repository, with the limits of the real one.

It speaks what `huggingface_hub` asks of it for plain LFS uploads (``HF_HUB_DISABLE_XET=1``).
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import re
import time
import uuid
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

from tests.support.servers.http import LoopbackServer, Reply, Request, loopback_server

REPO = "me/data"
TOKEN = "hf_" + "t" * 34

_API = f"/api/datasets/{REPO}"
#: Files above this go by LFS, and so does all Parquet, as the default .gitattributes of datasets has it.
_LFS_BYTES = 10 << 20
#: What each request is, by method and path; the names are those of `Hub.faults` and `Hub.counts`.
ROUTES = [
    ("create", "POST", r"/api/repos/create"),
    ("validate", "POST", r"/api/validate-yaml"),
    ("info", "GET", rf"{_API}(?:/revision/(?P<revision>[^/]+))?"),
    ("tree", "GET", rf"{_API}/tree/(?P<revision>[^/]+)(?:/(?P<path>.+))?"),
    ("paths", "POST", rf"{_API}/paths-info/(?P<revision>[^/]+)"),
    ("preupload", "POST", rf"{_API}/preupload/(?P<revision>[^/]+)"),
    ("commits", "GET", rf"{_API}/commits/(?P<revision>[^/]+)"),
    ("commit", "POST", rf"{_API}/commit/(?P<revision>[^/]+)"),
    ("batch", "POST", rf"/datasets/{REPO}\.git/info/lfs/objects/batch"),
    ("upload", "PUT", r"/storage/(?P<oid>[0-9a-f]{64})"),
    ("verify", "POST", r"/verify"),
    ("resolve", "GET|HEAD", rf"/datasets/{REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.+)"),
    ("storage", "GET|HEAD", r"/storage/(?P<oid>[0-9a-f]{64})"),
]


@dataclass(frozen=True)
class Commit:
    """A state of the repository: what it holds and who said so."""

    sha: str
    title: str
    message: str
    files: Mapping[str, bytes]
    #: Of `Hub.clock`.
    time: float


class Refused(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: int, code: str = "", **headers: str) -> None:
        super().__init__(status, code)
        said = {"x-error-code": code, **headers} if code else headers
        self.reply = Reply(status, b'{"error": "refused"}', said)


class Hub:
    """The repository and what may go wrong with it.

    ``faults[name]`` is a queue of replies given in place of the next answers to requests of that name;
    one that is ``lost`` is left out after the request was carried out. ``before[name]`` is a queue of
    calls made before the next ones are. ``trouble`` is asked by name where no fault is queued. ``counts``
    has the requests by name.
    """

    def __init__(self, server: LoopbackServer) -> None:
        self.url = server.url
        self.loopback = server
        self.page = 1000
        self.commits_an_hour = 128
        self.entries_a_folder = 10_000
        self.clock: Callable[[], float] = time.time
        self.history = [Commit("0" * 40, "initial commit", "", {}, 0.0)]
        self.objects: dict[str, bytes] = {}
        self.counts: Counter[str] = Counter()
        self.faults: dict[str, deque[Reply]] = defaultdict(deque)
        self.before: dict[str, deque[Callable[[], object]]] = defaultdict(deque)
        self.trouble: Callable[[str], Reply | None] = lambda name: None
        self.ranges = True
        server.respond = self._answer

    lost = Reply(cut=True)

    @property
    def files(self) -> Mapping[str, bytes]:
        """What the head holds."""
        return self.history[-1].files

    def commit(self, files: Mapping[str, bytes], title: str = "by hand", message: str = "") -> str:
        """Make ``files`` the repository's whole content, as another writer may at any time."""
        # content-independent: the same files twice are two commits
        sha = hashlib.sha1(uuid.uuid4().bytes).hexdigest()
        self.history.append(Commit(sha, title, message, dict(files), self.clock()))
        return sha

    def _answer(self, request: Request) -> Reply:
        url = urlsplit(request.path)
        found = (
            (name, match)
            for name, methods, pattern in ROUTES
            if request.method in methods.split("|") and (match := re.fullmatch(pattern, url.path))
        )
        name, match = next(found, ("", None))
        if match is None:
            return Reply(404, b"{}")
        self.counts[name] += 1
        if self.before[name]:
            self.before[name].popleft()()
        fault = self.faults[name].popleft() if self.faults[name] else self.trouble(name)
        if fault is not None and fault is not self.lost:
            return fault
        try:
            # storage is reached by signed links
            signed = name in ("upload", "storage")
            if not signed and request.headers.get("authorization") != f"Bearer {TOKEN}":
                raise Refused(401, "RepoNotFound")
            parts = {key: unquote(part) for key, part in match.groupdict().items() if part}
            reply: Reply = getattr(self, f"_{name}")(request, parse_qs(url.query), **parts)
        except Refused as refused:
            reply = refused.reply
        return self.lost if fault is self.lost else reply

    def _at(self, revision: str) -> Commit:
        if revision == "main":
            return self.history[-1]
        for commit in self.history:
            if commit.sha == revision:
                return commit
        raise Refused(404, "RevisionNotFound")

    def _create(self, request: Request, query: Any) -> Reply:
        raise Refused(409)

    def _validate(self, request: Request, query: Any) -> Reply:
        return _json({"errors": [], "warnings": []})

    def _info(self, request: Request, query: Any, revision: str = "main") -> Reply:
        commit = self._at(revision)
        # the plain listing stops early without a word on large repositories
        siblings = [{"rfilename": path} for path in list(commit.files)[: self.page]]
        return _json({"id": REPO, "sha": commit.sha, "private": True, "siblings": siblings})

    def _tree(self, request: Request, query: Any, revision: str, path: str = "") -> Reply:
        files = self._at(revision).files
        folder = f"{path.rstrip('/')}/" if path else ""
        found: dict[str, dict[str, Any]] = {}
        for name in sorted(files):
            if name.startswith(folder):
                inner = name.removeprefix(folder).split("/")
                for depth in range(1, len(inner)):
                    above = folder + "/".join(inner[:depth])
                    found[above] = {"type": "directory", "oid": _sha1(above), "path": above}
                found[name] = self._record(name, files[name])
        if folder and not found:
            raise Refused(404, "EntryNotFound")
        if query.get("recursive", ["false"])[0].lower() != "true":
            found = {key: one for key, one in found.items() if "/" not in key[len(folder) :]}
        start = int(query.get("cursor", ["0"])[0])
        end = start + self.page
        headers = {}
        if end < len(found):
            kept = "&".join(f"{key}={quote(query[key][0])}" for key in query if key != "cursor")
            where = f"{self.url}{urlsplit(request.path).path}?{kept}&cursor={end}"
            headers["link"] = f'<{where}>; rel="next"'
        return _json(list(found.values())[start:end], headers)

    def _paths(self, request: Request, query: Any, revision: str) -> Reply:
        files = self._at(revision).files
        if "json" in request.headers.get("content-type", ""):
            said = json.loads(request.body)
            wanted, expand = said["paths"], bool(said.get("expand"))
        else:
            said = parse_qs(request.body.decode())
            wanted = said.get("paths", [])
            expand = said.get("expand", ["false"])[0].lower() == "true"
        records: list[dict[str, Any]] = []
        for path in wanted:
            if path in files:
                records.append(self._record(path, files[path]))
                if expand:
                    records[-1]["lastCommit"] = self._last_commit(path, files[path])
            elif any(name.startswith(f"{path}/") for name in files):
                records.append({"type": "directory", "oid": _sha1(path), "path": path})
        return _json(records)

    def _record(self, path: str, content: bytes) -> dict[str, Any]:
        record = {"type": "file", "oid": _git_oid(content), "size": len(content), "path": path}
        if _is_lfs(path, len(content)):
            oid = _sha256(content)
            record["lfs"] = {"oid": oid, "size": len(content), "pointerSize": 134}
        return record

    def _last_commit(self, path: str, content: bytes) -> dict[str, Any]:
        """The commit that made the file what it is."""
        last = self.history[-1]
        for commit in reversed(self.history):
            if commit.files.get(path) != content:
                break
            last = commit
        date = datetime.fromtimestamp(last.time, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
        return {"id": last.sha, "title": last.title, "date": date}

    def _preupload(self, request: Request, query: Any, revision: str) -> Reply:
        files = self._at(revision).files
        answers = []
        for file in json.loads(request.body)["files"]:
            path, large = file["path"], _is_lfs(file["path"], file["size"])
            answer = {"path": path, "uploadMode": "lfs" if large else "regular"}
            answer["shouldIgnore"] = False
            if path in files:
                content = files[path]
                answer["oid"] = _sha256(content) if large else _git_oid(content)
            answers.append(answer)
        return _json({"files": answers, "commitOid": self.history[-1].sha})

    def _batch(self, request: Request, query: Any) -> Reply:
        objects = json.loads(request.body)["objects"]
        for one in objects:
            if one["oid"] not in self.objects:
                one["actions"] = {
                    "upload": {"href": f"{self.url}/storage/{one['oid']}"},
                    "verify": {"href": f"{self.url}/verify"},
                }
        return _json({"transfer": "basic", "objects": objects})

    def _upload(self, request: Request, query: Any, oid: str) -> Reply:
        if hashlib.sha256(request.body).hexdigest() != oid:
            raise Refused(400)
        self.objects[oid] = request.body
        return Reply()

    def _verify(self, request: Request, query: Any) -> Reply:
        wanted = json.loads(request.body)
        if len(self.objects.get(wanted["oid"], b"")) != wanted["size"]:
            raise Refused(400)
        return _json({})

    def _commit(self, request: Request, query: Any, revision: str) -> Reply:
        lines = [json.loads(line) for line in request.body.splitlines()]
        header = lines.pop(0)["value"]
        since = self.clock() - 3600
        recent = [commit.time for commit in self.history[1:] if commit.time > since]
        if len(recent) >= self.commits_an_hour:
            wait = int(recent[-self.commits_an_hour] - since) + 1
            raise Refused(429, **{"retry-after": str(wait)})
        if header.get("parentCommit", self.history[-1].sha) != self.history[-1].sha:
            raise Refused(412)
        files = dict(self.files)
        for line in lines:
            self._apply(files, line["key"], line["value"])
        self._check_folders(files)
        sha = self.commit(files, header["summary"], header.get("description", ""))
        url = f"{self.url}/datasets/{REPO}/commit/{sha}"
        return _json({"success": True, "commitOid": sha, "commitUrl": url, "hookOutput": ""})

    def _apply(self, files: dict[str, bytes], kind: str, value: dict[str, Any]) -> None:
        path = value["path"]
        if kind == "file":
            files[path] = base64.b64decode(value["content"])
        elif kind == "lfsFile" and value["oid"] in self.objects:
            files[path] = self.objects[value["oid"]]
        elif kind == "deletedFile" and path in files:
            del files[path]
        else:
            raise Refused(404 if kind == "deletedFile" else 400, "EntryNotFound")

    def _check_folders(self, files: Mapping[str, bytes]) -> None:
        entries: dict[str, set[str]] = defaultdict(set)
        for path in files:
            folder, _, name = path.rpartition("/")
            if path.startswith("/") or f"{path}/" in entries:
                raise Refused(400)
            entries[folder].add(name)
        if any(len(names) > self.entries_a_folder for names in entries.values()):
            raise Refused(400)

    def _commits(self, request: Request, query: Any, revision: str) -> Reply:
        made = [
            {
                "id": commit.sha,
                "title": commit.title,
                "message": commit.message,
                "authors": [],
                "date": "2026-01-15T00:00:00.000Z",
            }
            for commit in reversed(self.history)
        ]
        return _json(made)

    def _resolve(self, request: Request, query: Any, revision: str, path: str) -> Reply:
        commit = self._at(revision)
        if path not in commit.files:
            raise Refused(404, "EntryNotFound")
        content = commit.files[path]
        headers = {"x-repo-commit": commit.sha, "etag": f'"{_git_oid(content)}"'}
        if _is_lfs(path, len(content)):
            oid = _sha256(content)
            return Reply(302, b"", {**headers, "location": f"{self.url}/storage/{oid}"})
        return self._ranged(request, content, headers)

    def _storage(self, request: Request, query: Any, oid: str) -> Reply:
        if oid in self.objects:
            return self._ranged(request, self.objects[oid], {})
        # by content, because a file that was committed by hand was never uploaded
        for commit in reversed(self.history):
            for content in commit.files.values():
                if _sha256(content) == oid:
                    return self._ranged(request, content, {})
        raise Refused(404)

    def _ranged(self, request: Request, content: bytes, headers: dict[str, str]) -> Reply:
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", ""))
        if not wanted or not self.ranges:
            return Reply(200, content, headers)
        start, last = int(wanted[1]), int(wanted[2] or len(content) - 1)
        if start >= len(content):
            raise Refused(416)
        part = content[start : last + 1]
        span = f"bytes {start}-{start + len(part) - 1}/{len(content)}"
        return Reply(206, part, {**headers, "content-range": span})


def _is_lfs(path: str, size: int) -> bool:
    return size > 0 and (path.endswith(".parquet") or size > _LFS_BYTES)


# kept: the history holds the contents anyway, and large ones are asked about again and again
@functools.lru_cache(4096)
def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@functools.lru_cache(4096)
def _git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _sha1(text: str) -> str:
    return hashlib.sha1(text.encode()).hexdigest()


def _json(value: Any, headers: Mapping[str, str] | None = None) -> Reply:
    return Reply(
        200, json.dumps(value).encode(), {"content-type": "application/json"} | dict(headers or {})
    )


@contextmanager
def running() -> Iterator[Hub]:
    """A Hub with one empty repository, `REPO`, that `TOKEN` may write to."""
    with loopback_server() as server:
        yield Hub(server)
