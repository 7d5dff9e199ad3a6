"""The vault as agents use it: documents, metrics, listings."""

from __future__ import annotations

import contextlib
import io
import json
import operator
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import date, datetime
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyarrow as pa
import pyarrow.parquet as pq

from atlas.config import get_settings
from atlas.errors import CorruptObject, InvalidInput, VaultUnavailable
from atlas.forks import renew_in_child
from atlas.tables.parquet import VISUALS_SCHEMA, open_writer
from atlas.types import ObjectStore, ReadableStore, check_id
from atlas.vault import files
from atlas.vault.layout import (
    as_date,
    check_document_key,
    check_key,
    check_prefix,
    flat_transcript_key,
    metadata_key,
    path_in_uri,
    transcript_key,
    visuals_key,
)
from atlas.vault.metrics import metrics_files
from atlas.vault.spool.delivery import Outbox, Pace
from atlas.vault.spool.metrics import Pending, Spool, deliver_or_keep
from atlas.vault.spool.overlay import WithWaitingRows
from atlas.vault.stores.base import COPY_BYTES

Data = bytes | bytearray | memoryview | BinaryIO


class Vault:
    """Documents and tables in one store. Synchronous; every method may be called from any thread, and
    again: the same call twice leaves what one leaves.

    Paths are relative keys such as ``notes/a.json``; others raise `InvalidInput`. A missing object is
    None; whatever fails raises `VaultError` (`VaultUnavailable` where trying again may help).

    ``home`` is where rows wait that the store has not taken yet (default: ATLAS_HOME). With ``pace``, for
    services that limit writes or fail, a call returns when what it was given is in the store or on this
    machine's disk; documents wait there too, and every fetch and listing of this machine sees them. A
    document is then what was written last on this machine, and between machines what was delivered last.
    """

    def __init__(
        self, store: ObjectStore, home: Path | None = None, *, pace: Pace | None = None
    ) -> None:
        self.store = store
        self._home = home
        self._pace = pace
        self._open_anew()
        renew_in_child(self, Vault._open_anew)

    def _open_anew(self) -> None:
        self._spools: dict[str, Spool] = {}
        self._outboxes: dict[str, Outbox] = {}
        self._spools_lock = threading.Lock()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.identity})"

    @property
    def identity(self) -> str:
        """Stable name of this vault, without secrets; rows of the ledger carry it."""
        return self.store.identity

    def store_json(self, path: str, data: Any) -> str:
        """Write ``data`` as UTF-8 JSON, replacing what is there; returns its URI.

        The same data is encoded to the same bytes. Raises `InvalidInput` for what JSON has no form for, NaN
        included.
        """
        return self._write(self._document_key(path), io.BytesIO(_encode(data, path)))

    def fetch_json(self, path: str) -> Any:
        """The decoded document, or None if there is none. Raises `CorruptObject` if it is not JSON."""
        return self._fetch_json(self._key(path))

    def store_binary(self, path: str, data: Data) -> str:
        """Write bytes or the content of an open binary file; returns the URI.

        A file that can seek is stored whole, from its beginning: a buffer that was just written needs no
        rewinding. Any other is stored from where it stands.
        """
        key = self._document_key(path)
        with _reader(data, path) as source:
            return self._write(key, source)

    def fetch_binary(self, path: str) -> io.BytesIO | None:
        """The object at a path, or at a URI of this vault, whole; None if there is none."""
        data = self._get(self._key(path))
        return None if data is None else io.BytesIO(data)

    def open_binary(self, path: str) -> BinaryIO | None:
        """A reader of the object at a path or a URI of this vault, by ranges; None if there is none."""
        key = self._key(path)
        waiting = None if self._pace is None else self._spool().get(key)
        return self.store.open(key) if waiting is None else io.BytesIO(waiting)

    def list_files(self, prefix: str = "") -> list[str]:
        """Keys of every object whose key starts with the text ``prefix``, in order.

        ``"a/d"`` finds ``a/d.json`` and ``a/dir/x``; ``"a/"`` finds what lies in the folder ``a``.
        """
        start = check_prefix(prefix)
        # the spool first: what leaves it meanwhile is in the store
        waiting = [] if self._pace is None else self._spool().keys()
        stored = [info.key for info in self.store.list(start.rpartition("/")[0])]
        return sorted({key for key in (*stored, *waiting) if key.startswith(start)})

    def store_metadata(
        self, video_id: str, data: Any, date: date | datetime | str | None = None
    ) -> str:
        """Write a video's metadata of a UTC day (default: today); returns the URI."""
        key = metadata_key(video_id, as_date(date))
        return self._write(key, io.BytesIO(_encode(data, key)))

    def fetch_metadata(self, video_id: str, date: date | datetime | str | None = None) -> Any:
        """A video's metadata of a UTC day (default: today), or None."""
        return self._fetch_json(metadata_key(video_id, as_date(date)))

    def store_transcript(self, video_id: str, data: Any) -> str:
        """Write a video's transcript; returns the URI."""
        key = transcript_key(video_id)
        return self._write(key, io.BytesIO(_encode(data, key)))

    def fetch_transcript(self, video_id: str) -> Any:
        """A video's transcript, or None; ones that lie in no folder are found too."""
        for key in (transcript_key(video_id), flat_transcript_key(video_id)):
            raw = self._get(key)
            if raw is not None:
                return _decode(raw, key)
        return None

    def store_visual_evidence(self, video_id: str, frames: Iterable[tuple[int, bytes]]) -> str:
        """Write a video's frames, ``(frame_index, image bytes)``, as one Parquet file; returns the URI.

        Of a frame index that comes twice the last one counts; negative ones are taken, as seeking in
        network streams yields both.
        """
        key = visuals_key(video_id)
        table = _frames_table(video_id, frames)
        target = io.BytesIO()
        with open_writer(target, VISUALS_SCHEMA, {"atlas.format": "1"}) as writer:
            writer.write_table(table)
        return self._write(key, io.BytesIO(target.getvalue()))

    def fetch_visual_evidence(self, video_id: str) -> list[tuple[int, bytes]] | None:
        """A video's frames in order of frame index, or None."""
        key = visuals_key(video_id)
        raw = self._get(key)
        if raw is None:
            return None
        try:
            table = pq.read_table(pa.BufferReader(raw), columns=["frame_index", "image"])
            columns = (table[name].to_pylist() for name in ("frame_index", "image"))
            return list(zip(*columns, strict=True))
        except (pa.ArrowException, OSError, KeyError) as error:
            raise CorruptObject(f"{key} cannot be read as frames", path=key) from error

    def append_metrics(
        self,
        rows: Iterable[Mapping[str, Any]],
        date: date | datetime | str | None = None,
        hour: int | str | None = None,
    ) -> int:
        """Add samples under ``metrics/``, without reading what is there; returns how many files are new.

        A row is a mapping of video_id and, where known, timestamp, views, likes, comment_count (or
        comments) and published_at. Counters are whole numbers or their digits, NaN is not known; times
        are datetimes or ISO 8601 text, UTC where they name no zone. The folder comes from the row's
        timestamp; ``date`` and ``hour``, each on its own, replace that part of it. A row without a
        timestamp is of the ``date``
        and ``hour`` given; without ``hour`` it has the time of day of now, without ``date`` today's date.

        When it returns, the rows are in the store, or, if that does not answer, on this machine's disk,
        from where `flush` or a later call delivers them (`pending` reports what waits). A repeat on one host
        within a week adds nothing. Raises `InvalidInput` naming row and field, and nothing is
        written; `VaultFull`, `VaultDenied` or `VaultError` where rows can be kept on no disk, or where
        the store needs a hand (a note then says that the rows are safe).
        """
        new = metrics_files(rows, date, hour)
        if not new:
            return 0
        spool = self._spool()
        added = spool.add(new)
        outbox = self._outbox()
        if outbox is None:
            deliver_or_keep(spool, self.store)
        elif added:
            outbox.send(added)
        return len(added)

    def store_batch(self, items: Mapping[str, Any] | Iterable[tuple[str, Any]]) -> list[str]:
        """Write many files, replacing what is there; one commit on Hugging Face. Returns their URIs.

        An item is a path and bytes, an open binary file, or data for JSON.
        """
        pairs = items.items() if isinstance(items, Mapping) else items
        with contextlib.ExitStack() as stack:
            # a repeated path: the last one counts
            sources: dict[str, BinaryIO] = {}
            for path, data in pairs:
                key = self._document_key(path)
                if not (isinstance(data, bytes | bytearray | memoryview) or hasattr(data, "read")):
                    data = _encode(data, path)
                sources[key] = stack.enter_context(_reader(data, path))
            if sources:
                self._put(sources)
        return [self.store.uri(key) for key in sources]

    def flush(self) -> int:
        """Deliver all that waits on this machine; returns the number of files. Raises `VaultError`."""
        outbox = self._outbox()
        return self._spool().deliver(self.store) if outbox is None else outbox.flush()

    def pending(self) -> Pending:
        """What waits on this machine for the store: count, bytes, and the oldest's time or None."""
        return self._spool().pending()

    def waiting_documents(self) -> list[str]:
        """Keys of the documents that wait on this machine; the store may hold what was there before."""
        return self._spool().documents.keys()

    def drop_refused(self, wanted: Callable[[str], bool]) -> list[str]:
        """Remove documents that the store refused for good, by key, from this machine; returns their keys."""
        return self._spool().documents.drop_refused(wanted)

    def as_seen_here(self) -> ReadableStore:
        """The storage with the appended rows that wait on this machine: they count from the append on."""
        return WithWaitingRows(self.store, self._spool())

    def appended_here(self) -> bool:
        """Whether `append_metrics` was ever called for this vault on this machine; asks no store."""
        return self._spool().appended_here()

    def _spool(self) -> Spool:
        home, identity = self._home or get_settings().atlas_home, self.identity
        with self._spools_lock:
            return self._spools.setdefault(f"{home}\0{identity}", Spool(home, identity))

    def _outbox(self) -> Outbox | None:
        if self._pace is None:
            return None
        spool = self._spool()
        with self._spools_lock:
            name = str(spool.folder)
            if name not in self._outboxes:
                self._outboxes[name] = Outbox(self.store, spool, self._pace)
            return self._outboxes[name]

    def _get(self, key: str) -> bytes | None:
        # the spool first: what leaves it meanwhile is in the store
        waiting = None if self._pace is None else self._spool().get(key)
        return self.store.get_bytes(key) if waiting is None else waiting

    def _key(self, path: str) -> str:
        if isinstance(path, str) and ("://" in path or path.startswith("file:")):
            path = path_in_uri(path, self.store.uri("x").removesuffix("x"))
        return check_key(path)

    def _document_key(self, path: str) -> str:
        return check_document_key(self._key(path))

    def _write(self, key: str, source: BinaryIO) -> str:
        self._put({key: source})
        return self.store.uri(key)

    def _put(self, sources: Mapping[str, BinaryIO]) -> None:
        """Write documents to the store, or to the disk where they would wait or overtake another."""
        outbox = self._outbox()
        if outbox is None:
            self.store.put_many(list(sources.items()))
            return
        documents = self._spool().documents
        unavailable = None
        if outbox.may_go(in_company=len(sources) > 1) and not any(map(documents.holds, sources)):
            try:
                self.store.put_many(list(sources.items()))
                outbox.went()
                return
            except VaultUnavailable as error:
                unavailable = error
        for key, source in sources.items():
            source.seek(0)
            documents.add(key, source)
        outbox.keep(len(sources), unavailable)

    def _fetch_json(self, key: str) -> Any:
        raw = self._get(key)
        return None if raw is None else _decode(raw, key)


def _encode(data: Any, path: object) -> bytes:
    try:
        text = json.dumps(
            data, ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":")
        )
        return text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInput(
            f"data for {path!r:.200} has no form in JSON: {error}", field="data", value=data
        ) from error


def _decode(raw: bytes, key: str) -> Any:
    try:
        return json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise CorruptObject(f"{key} is not JSON", path=key) from error


@contextlib.contextmanager
def _reader(data: object, path: object) -> Iterator[BinaryIO]:
    if isinstance(data, bytes | bytearray | memoryview):
        yield io.BytesIO(data)
        return
    # copied first, so that a text file or a closed one is refused before anything is written
    with (
        files.raised_as_vault_error("a temporary file"),
        tempfile.SpooledTemporaryFile(COPY_BYTES) as copy,
    ):
        try:
            source = cast(BinaryIO, data)
            if source.seekable():
                source.seek(0)
            shutil.copyfileobj(source, copy, COPY_BYTES)
        except (TypeError, ValueError, AttributeError) as error:
            raise InvalidInput(
                f"data for {path!r:.200} is neither bytes nor an open binary file",
                field="data",
                value=data,
            ) from error
        copy.seek(0)
        yield cast(BinaryIO, copy)


def _frames_table(video_id: str, frames: Iterable[tuple[int, bytes]]) -> pa.Table:
    images: dict[int, bytes] = {}
    for row, frame in enumerate(frames):
        try:
            index, image = frame
            index, image = operator.index(index), bytes(memoryview(image))
        except (TypeError, ValueError) as error:
            raise InvalidInput(
                f"frame {row} is not a pair of frame index and bytes", row=row, field="frames"
            ) from error
        if not -(2**63) <= index < 2**63:
            raise InvalidInput(
                f"frame_index in row {row} has more than 64 bits",
                row=row,
                field="frame_index",
                value=index,
            )
        images[index] = image
    ordered = sorted(images.items())
    return pa.table(
        [
            [check_id(video_id)] * len(ordered),
            [index for index, _ in ordered],
            [image for _, image in ordered],
        ],
        schema=VISUALS_SCHEMA,
    )
