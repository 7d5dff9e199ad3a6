"""What a failure looks like: named, in lines for people, in one document for programs, with an exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from atlas.db import Database
from atlas.ingest import record_samples
from tests.support.cli import Run
from tests.support.samples import samples
from tests.support.servers.http import Reply, loopback_server

NOWHERE = "postgresql://u:s3cr3t@127.0.0.1:9/x"


def error_in(done: subprocess.CompletedProcess[str], code: int) -> dict[str, str]:
    """The error of the one document on standard output."""
    assert done.returncode == code, (done.stdout, done.stderr)
    document = json.loads(done.stdout)
    assert list(document) == ["error"] and list(document["error"]) == ["type", "message", "hint"]
    assert done.stderr == ""
    error: dict[str, str] = document["error"]
    return error


def test_under_json_every_failure_is_one_document(atlas: Run) -> None:
    error = error_in(atlas("status", "--json", DATABASE_URL=NOWHERE), 1)
    assert error["type"] == "DatabaseUnavailable" and error["hint"]
    assert "s3cr3t" not in str(error)
    error = error_in(atlas("status", "--json", STATS_PARTITION_HOURS="5"), 2)
    assert error["type"] == "ConfigurationError"
    assert "STATS_PARTITION_HOURS" in error["message"]
    for wrong in (("frobnicate",), ("archive", "--max-rows", "none"), ("history",)):
        error = error_in(atlas(*wrong, "--json"), 2)
        assert "--help" in error["hint"]
    # behind -- it is no option
    assert atlas("frobnicate", "--", "--json").stdout == ""


def test_under_json_nothing_is_asked(database: Database, atlas: Run) -> None:
    for asking in (("vault", "forget", "dQw4w9WgXcQ"), ("db", "drop-old")):
        error = error_in(atlas(*asking, "--json"), 2)
        assert "--yes" in error["hint"]


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("VAULT_PREFIX", "../x", "folder inside"),
        ("VAULT_PREFIX", "/x", "folder inside"),
        ("GCS_BUCKET_NAME", "gs://b", "without gs://"),
        ("HF_REPO_ID", "https://huggingface.co/datasets/me/data", "without"),
        ("HF_TOKEN", "hf_s3cr3t\n", "line break"),
        ("DATABASE_URL", "postgresql://u:s3cr3t\r@h/d", "line break"),
    ],
)
def test_a_value_that_would_fail_later_is_refused_by_name(
    variable: str, value: str, words: str, atlas: Run
) -> None:
    done = atlas("status", **{variable: value})
    assert done.returncode == 2
    assert variable in done.stderr and words in done.stderr
    assert "s3cr3t" not in done.stderr


async def test_forget_refuses_what_is_no_id_and_counts_in_a_dry_run(
    database: Database, atlas: Run
) -> None:
    refused = atlas("vault", "forget", "abc", "--yes")
    assert refused.returncode == 2 and "'abc'" in refused.stderr
    await record_samples(database, samples(videos=2, times=3))
    counted = atlas("vault", "forget", "video-0001", "dQw4w9WgXcQ", "--dry-run", "--json")
    known, unknown = json.loads(counted.stdout)["videos"]
    assert (known["video_id"], known["samples"]) == ("video-0001", 3)
    assert set(unknown.values()) == {"dQw4w9WgXcQ", 0}
    assert json.loads(atlas("vault", "ls", "--forgotten", "--json").stdout) == []
    assert atlas("vault", "forget", "video-0001", "--yes").returncode == 0
    (barred,) = json.loads(atlas("vault", "ls", "--forgotten", "--json").stdout)
    assert barred["video_id"] == "video-0001" and barred["erased_at"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_output_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "atlas", "config"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            check=False,
        )
    assert done.returncode == 1
    error, hint = done.stderr.splitlines()
    assert "No space left on device" in error and "free space" in hint


def test_a_home_that_is_a_file_is_named(tmp_path: Path, atlas: Run) -> None:
    (tmp_path / "file").write_text("")
    done = atlas("status", ATLAS_HOME=str(tmp_path / "file" / "home"))
    assert done.returncode in (1, 2)
    assert done.stderr.startswith("error:") and str(tmp_path / "file") in done.stderr


async def test_health_is_one_answer_of_the_database(database: Database, atlas: Run) -> None:
    assert atlas("health").stdout == "healthy\n"
    assert json.loads(atlas("health", "--json").stdout) == {"healthy": True, "reason": None}
    sick = atlas("health", DATABASE_URL=NOWHERE)
    assert sick.returncode == 1 and sick.stderr.startswith("unhealthy: ")
    silent = atlas("health", "--json", "--timeout", "5", DATABASE_URL=NOWHERE)
    assert silent.returncode == 1 and json.loads(silent.stdout)["healthy"] is False


def test_config_shows_values_masked_with_their_sources(tmp_path: Path, atlas: Run) -> None:
    (tmp_path / ".env").write_text(
        "JANITOR_RETENTION_DAYS=3\nHF_DATASET_ID=me/data\nLOG_LEVEL=INFO\n"
    )
    shown = atlas("config", "--json", HF_TOKEN="hf_s3cr3t", LOG_LEVEL="ERROR")
    assert "s3cr3t" not in shown.stdout
    rows = {row["variable"]: (row["value"], row["source"]) for row in json.loads(shown.stdout)}
    assert rows["JANITOR_RETENTION_DAYS"] == (3, ".env")
    assert rows["HF_REPO_ID"] == ("me/data", ".env, as HF_DATASET_ID")
    assert rows["LOG_LEVEL"] == ("ERROR", "environment")
    assert rows["HF_TOKEN"] == ("**********", "environment")
    assert rows["JANITOR_ENABLED"] == (True, "default")
    assert "JANITOR_ENABLED" not in atlas("config", "--changed").stdout


def test_doctor_folds_its_advice_on_a_narrow_terminal_and_looks_at_webhooks(atlas: Run) -> None:
    with loopback_server() as server:
        server.respond = lambda request: Reply(200)
        shown = atlas(
            "doctor",
            COLUMNS="40",
            DATABASE_URL=NOWHERE,
            EVENT_BUS_WEBHOOK_URL=f"{server.url}/s3cr3t",
            DISCORD_WEBHOOK_OPS="https://127.0.0.1:9/s3cr3t",
        )
        assert server.requests == []
    assert shown.returncode == 1
    assert "…" not in shown.stdout and "s3cr3t" not in shown.stdout
    text = " ".join(shown.stdout.split())
    assert "EVENT_BUS_WEBHOOK_SECRET=whsec_" in text
    assert "the host of DISCORD_WEBHOOK_OPS, 127.0.0.1, cannot be reached" in text


def test_help_has_a_short_name_and_shells_complete_commands(atlas: Run) -> None:
    assert "Exit codes" in atlas("-h").stdout
    assert "Usage" in atlas("vault", "ls", "-h").stdout
    completed = atlas(_ATLAS_COMPLETE="complete_bash", COMP_WORDS="atlas va", COMP_CWORD="1")
    # the program's name is that of what runs it
    assert completed.returncode in (0, 2)


def test_no_colour_is_shown_where_nobody_wants_any(atlas: Run) -> None:
    coloured = atlas("config", FORCE_COLOR="1")
    assert "\x1b[" in coloured.stdout
    plain = atlas("config", FORCE_COLOR="1", NO_COLOR="1")
    assert "\x1b[3" not in plain.stdout
