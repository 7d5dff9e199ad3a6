"""Every command that takes ``--json`` has a document that is declared."""

from __future__ import annotations

from collections.abc import Iterator

import typer

from atlas.cli.main import app
from tools import documents, json_page


def taking_json(command: typer.core.TyperCommand, name: str = "") -> Iterator[str]:
    if any("--json" in one.opts for one in command.params):
        yield name
    for word, one in getattr(command, "commands", {}).items():
        yield from taking_json(one, f"{name} {word}".strip())


def test_every_command_that_prints_a_document_declares_it_and_no_other() -> None:
    declared = {name.partition(" --")[0] for name in documents.DOCUMENTS}
    assert set(taking_json(typer.main.get_command(app))) == declared


def test_a_document_with_another_field_or_type_is_found_out() -> None:
    schema = json_page.schema_of(["work", "ls", "--json"])
    count = {"kind": "transcript", "leased": 1, "waiting": 0, "quarantined": 0}
    assert not json_page.complaints({"counts": [count], "quarantined": []}, schema)
    assert json_page.complaints({"counts": []}, schema) == ["quarantined is missing"]
    assert json_page.complaints({"counts": [], "quarantined": [], "x": 1}, schema)
    assert json_page.complaints({"counts": [count | {"leased": "1"}], "quarantined": []}, schema)
    assert json_page.schema_of(["vault", "ls", "--forgotten"]) != json_page.schema_of(
        ["vault", "ls"]
    )
