"""Atlas takes the model's steps: real jobs on a real database and vault, beside the model's."""

from __future__ import annotations

import ast
import asyncio
import functools
import importlib
import inspect
import re
import textwrap
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from datetime import timedelta
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

import atlas.types
from atlas.archive.session import Steps
from atlas.janitor import Janitor
from atlas.repositories.ledger.files import LedgerWriter
from tests.model.environment import BACKUP, LOSE, RESTORE, Move, append, moves, store, write
from tests.model.scenario import Scenario
from tests.model.steps import Refusal, Refused
from tests.model.ties import MODEL_ONLY, STORE_TIES, STORE_UNTIED, TIES, UNTIED, WRITERS
from tests.model.world import Database, Process, World
from tests.support.histories import WEEK, History
from tests.support.samples import OLD
from tests.support.servers.postgres import Server

_MODEL = Scenario({}, coarse=False)
#: The first is called within the second.
_WITHIN = {("add", "seal"), ("bar", "bar recorded")}
_MAKE_STEPS = ("fenced", "transaction", "Step", "atomically")
_TIED_LABELS = {*TIES, *(label for _, _, label in STORE_TIES)}
#: What a method that writes has in its text.
_WRITES = re.compile(
    r"\b(INSERT INTO|UPDATE|DELETE FROM|ALTER TABLE|DROP TABLE|CREATE TEMP)\b"
    r"|\b(insert|update|delete)\(|session\.(add|merge)\(|\b_move\("
)


class _Recorded:
    """A store that notes which of the model's steps its writes are."""

    def __init__(self, store: Any, steps: list[str]) -> None:
        self._store, self._steps = store, steps

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def _note(self, method: str, keys: Iterable[str]) -> None:
        for key in keys:
            if key.startswith(STORE_UNTIED):
                continue
            labels = [
                label
                for tied, folder, label in STORE_TIES
                if tied == method and key.startswith(folder)
            ]
            assert labels, f"{method} of {key} is tied to no step of the model"
            self._steps.append(labels[0])

    def put_files(self, items: Sequence[tuple[str, Path]]) -> None:
        self._note("put_files", [key for key, _ in items])
        self._store.put_files(items)

    def put_bytes(self, key: str, data: bytes, **how: Any) -> None:
        self._note("put_bytes", [key])
        self._store.put_bytes(key, data, **how)

    def delete(self, keys: Iterable[str]) -> None:
        wanted = list(keys)
        self._note("delete", wanted)
        self._store.delete(wanted)

    def compare_and_swap(self, key: str, expected: bytes | None, new: bytes) -> bool:
        self._note("compare_and_swap", [key])
        return bool(self._store.compare_and_swap(key, expected, new))


class Pair:
    """A real history and the model's world, side by side."""

    def __init__(self, history: History, monkeypatch: pytest.MonkeyPatch) -> None:
        self.history = history
        self.world = World((Database(),))
        self.steps: list[str] = []
        self.met: set[str] = set()
        self.backup = ""
        history.vault.store = _Recorded(history.vault.store, self.steps)
        for label, functions in TIES.items():
            for function in functions:
                _tie(function, label, self.steps, monkeypatch)

    def _happens(self, *moves_: Move) -> None:
        for move in moves_:
            _, self.world = next(iter(moves(self.world, move, _MODEL.rules)))

    async def write(self, video_id: str) -> None:
        await self.history.write(video_id, self.world.version + 1)
        self._happens(write(video_id))

    async def append(self, video_id: str) -> None:
        self.history.append(video_id, self.world.version + 1)
        self._happens(append(video_id), Move("deliver"))

    async def finish_video(self, video_id: str) -> None:
        await asyncio.to_thread(self.history.vault.store_transcript, video_id, {"text": "a word"})
        await self.history.sql(
            "INSERT INTO videos (id, title, status, has_transcript, has_visuals, discovered_at) "
            f"VALUES ('{video_id}', 'A title', 'DONE', true, true, now() - interval '30 days')"
        )
        self._happens(store(video_id))

    async def back_up(self) -> None:
        self.backup = await self.history.backup()
        self._happens(BACKUP)

    async def put_back(self) -> None:
        await self.history.put_back(self.backup)
        self._happens(RESTORE)

    async def lose(self) -> None:
        await self.history.lose()
        self._happens(LOSE)

    async def does(
        self, name: str, real: Callable[[], Awaitable[object]], argument: str = "", until: str = ""
    ) -> None:
        """Both do a job, and take the same steps; up to the step ``until``, where both die."""
        self.steps.clear()
        if until:
            with pytest.raises(_Died):
                await real()
        else:
            await real()
        took = _once_each(self.steps)
        self.world, wanted = _model_steps(self.world, Process("", name, 0, argument, ()), until)
        assert took == wanted, f"{name}: Atlas took\n{took}\nthe model\n{wanted}"
        self.met |= set(took)
        if name == "adopt":  # and it may go back once more
            self.world = self.world._replace(lost=False)


class _Died(Exception):
    """A job dies at a step."""


def _tie(function: str, label: str, steps: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    owner, name = _found(function)
    real = getattr(owner, name)

    @functools.wraps(real)
    async def noting(*args: Any, **more: Any) -> Any:
        result = await real(*args, **more)
        # nothing to seal, nothing to retire: no step
        if not (label in ("seal", "retire_replaced") and not result):
            steps.append(label)
        return result

    monkeypatch.setattr(owner, name, noting)


def _found(function: str) -> tuple[Any, str]:
    module, path = function.split(":")
    *names, last = path.split(".")
    return functools.reduce(getattr, names, importlib.import_module(module)), last


def _once_each(labels: Iterable[str]) -> list[str]:
    """A step may take several calls in a row, and call the function of another one."""
    listed = [label for label, _ in groupby(labels)]
    followed = zip(listed, [*listed[1:], ""], strict=True)
    return [label for label, after in followed if (label, after) not in _WITHIN]


def _model_steps(world: World, process: Process, until: str) -> tuple[World, list[str]]:
    labels: list[str] = []
    task, result = _MODEL.job(process), None
    try:
        while True:
            step = (
                task.throw(Refused(result.why))
                if isinstance(result, Refusal)
                else task.send(result)
            )
            if step.label == until:
                return world, _once_each(labels)
            world, result = step.effect(world)[0]
            if step.label in _TIED_LABELS and not (step.label == "seal" and result is None):
                labels.append(step.label)
    except StopIteration:
        return world, _once_each(labels)


@pytest.fixture
async def pair(
    postgres_server: Server,
    migrated_template: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Pair]:
    history = await asyncio.to_thread(
        History, postgres_server, migrated_template, tmp_path / "vault"
    )
    yield Pair(history, monkeypatch)
    await history.close()


async def test_atlas_takes_the_steps_of_the_model(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    history = pair.history

    def archiver() -> Any:
        return history.archiver

    async def archive() -> None:
        await archiver().run(WEEK)

    async def clean_up() -> None:
        await history.age()
        await archiver().collect_garbage()

    async def janitor() -> None:
        await Janitor(history.database, history.vault).run()

    async def dies(*args: Any, **more: Any) -> None:
        raise _Died

    await pair.write("A")
    await pair.does("archive", archive)
    await pair.write("B")
    await pair.does("archive", archive)
    await pair.does("compact", lambda: archiver().compact())
    await pair.does("gc", clean_up)
    await pair.append("A")
    await pair.does("compact", lambda: archiver().compact())
    await pair.does("restore", lambda: archiver().restore(OLD, OLD + timedelta(hours=6)))
    await pair.does("release", lambda: archiver().release())
    await pair.finish_video("B")
    await pair.does("janitor", janitor)

    # jobs that die: outputs that are whole are carried forward, others are given up
    await pair.write("A")
    await pair.does("archive", archive)
    await pair.does("gc", clean_up)
    with monkeypatch.context() as patch:
        patch.setattr(Steps, "verified", dies)
        await pair.does("compact", lambda: archiver().compact(), until="mark_verified")
    await pair.does("archive", archive)
    await pair.write("A")
    await pair.does("archive", archive)
    with monkeypatch.context() as patch:
        patch.setattr(Steps, "put", dies)
        await pair.does("compact", lambda: archiver().compact(), until="put_batch")
    await pair.does("archive", archive)

    # an erasure, and a database that went back to before it
    await pair.back_up()
    await pair.does("forget", lambda: archiver().forget(["B"]), "B")
    await pair.write("A")
    await pair.does("archive", archive)
    await pair.put_back()
    await pair.does("adopt", lambda: archiver().adopt())
    await pair.does("archive", archive)
    await pair.does("gc", clean_up)
    await pair.lose()
    await pair.does("adopt", lambda: archiver().rebuild())

    # an object that is not what was written
    real = LedgerWriter.mark_written

    async def written_and_changed(self: LedgerWriter, file_id: int, facts: Any) -> None:
        await real(self, file_id, facts)
        if not changed:
            changed.append((await self.get(file_id)).object_key)
            (history.folder / changed[0]).write_bytes(b"not a file of Atlas")

    changed: list[str] = []
    await pair.write("A")
    with monkeypatch.context() as patch:
        patch.setattr(LedgerWriter, "mark_written", written_and_changed)
        await archive()
    assert "send_back" in pair.steps
    pair.met |= set(pair.steps)

    missed = _TIED_LABELS - pair.met - {"flush"}
    assert not missed, f"never compared: {sorted(missed)}"


def test_every_writing_method_of_the_repositories_is_tied() -> None:
    tied = {function.split(":")[1] for functions in TIES.values() for function in functions}
    for name in WRITERS:
        owner, last = _found(name)
        for method, function in vars(getattr(owner, last)).items():
            if not inspect.isfunction(function) or not _writes(function):
                continue
            where = f"{last}.{method}"
            assert (
                where in tied or where in UNTIED
            ), f"{where} writes, and no step of the model does so"


def test_every_writing_method_of_the_store_is_tied() -> None:
    writing = {
        name
        for name, function in vars(atlas.types.ObjectStore).items()
        if inspect.isfunction(function) and name.startswith(("put", "delete", "compare", "write"))
    }
    # put_many writes documents, and replaces them: no step of the archive
    assert writing == {method for method, _, _ in STORE_TIES} | {"put_many"}


def test_what_is_tied_or_left_out_is_there() -> None:
    for functions in TIES.values():
        for function in functions:
            owner, name = _found(function)
            assert callable(getattr(owner, name))
    there = {
        f"{name.split(':')[1]}.{method}"
        for name in WRITERS
        for method in vars(getattr(*_found(name)))
    }
    assert there >= UNTIED.keys()


def test_every_step_of_the_model_is_tied_or_left_out_with_a_reason() -> None:
    labels: set[str] = set()
    for path in Path(__file__).parent.glob("*.py"):
        if path.name.startswith(("test_", "explorer")):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args:
                first, makes = node.args[0], node.func.id in _MAKE_STEPS
                if makes and isinstance(first, ast.Constant) and not _looks(node):
                    labels.add(first.value)
    assert labels == _TIED_LABELS | MODEL_ONLY.keys()


def _looks(call: ast.Call) -> bool:
    return any(keyword.arg == "looks" for keyword in call.keywords)


def _writes(function: Any) -> bool:
    text = textwrap.dedent(inspect.getsource(function))
    body = ast.parse(text).body[0]
    assert isinstance(body, ast.FunctionDef | ast.AsyncFunctionDef)
    if ast.get_docstring(body):
        text = text.replace(ast.get_docstring(body, clean=False) or "", "")
    return bool(_WRITES.search(text))
