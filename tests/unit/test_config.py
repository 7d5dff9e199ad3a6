"""Settings: rules of each variable, and no secret in anything that is printed."""

from __future__ import annotations

import re
import traceback
from pathlib import Path
from typing import Any

import pytest
from pydantic import AliasChoices, ValidationError

import atlas
from atlas.config import Settings, get_settings, settings
from atlas.errors import ConfigurationError
from atlas.vault import GCSVault

SECRET = "s3cr3t-value"


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("STATS_PARTITION_HOURS", "5"),
        ("JANITOR_RETENTION_DAYS", "0"),
        ("HOT_MAX_BYTES", "much"),
        ("KEY_POOL_TRACKING_SIZE", "-1"),
        ("HYDRA_RETRY_ATTEMPTS", "0"),
        ("VAULT_PROVIDER", "floppy"),
        ("LOG_FORMAT", "xml"),
        ("LOG_LEVEL", "LOUD"),
        ("COMPLIANCE_MODE", "perhaps"),
    ],
)
def test_a_wrong_value_names_the_variable_and_what_it_got(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigurationError) as caught:
        get_settings()
    assert variable in str(caught.value)
    assert value in str(caught.value)


def test_a_wrong_secret_is_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("YOUTUBE_API_KEY_POOL_JSON", f'["{SECRET}"')
    with pytest.raises(ConfigurationError, match="YOUTUBE_API_KEY_POOL_JSON") as caught:
        get_settings()
    shown: list[Any] = [caught.value]
    while shown[-1] is not None:
        shown.append(shown[-1].__cause__ or shown[-1].__context__)
    assert SECRET not in "".join(map(repr, shown)) + "".join(map(str, shown))


@pytest.mark.parametrize(
    "key",
    [
        f'{{"type": "service_account", "private_key": "{SECRET}"}}',
        f"\n {{'private_key': '{SECRET}'}}",
        f"-----BEGIN PRIVATE KEY-----\n{SECRET}",
        "eyJ0eXBlIjogInNlcnZpY2" + SECRET * 20,
    ],
)
def test_a_key_in_place_of_the_path_of_its_file_is_refused_and_masked(
    monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", key)
    with pytest.raises(ConfigurationError, match="takes the path of a key file") as caught:
        get_settings()
    assert "GOOGLE_APPLICATION_CREDENTIALS: got a masked value" in str(caught.value)
    with pytest.raises(ConfigurationError) as given:
        Settings(_env_file=None, google_application_credentials=Path(key))
    with pytest.raises(ConfigurationError) as lazily:
        repr(settings)
    with pytest.raises(ConfigurationError, match="takes the path of a key file") as handed:
        GCSVault("bucket", key, settings=Settings.model_construct())
    for error in (caught, given, lazily, handed):
        shown = traceback.format_exception(error.value)
        assert SECRET not in "".join(shown) + repr(error.value) and "write the key" in str(
            error.value
        )


def test_no_secret_is_shown_by_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "DATABASE_URL",
        "HF_TOKEN",
        "EVENT_BUS_WEBHOOK_URL",
        "EVENT_BUS_WEBHOOK_SECRET",
        "DISCORD_WEBHOOK_OPS",
    ):
        monkeypatch.setenv(name, f"x{SECRET}")
    monkeypatch.setenv(
        "YOUTUBE_API_KEY_POOL_JSON", f'["{SECRET}", {{"key": "{SECRET}2", "project": "p"}}]'
    )
    found = get_settings()
    assert [key.project for key in found.youtube_api_keys] == [None, "p"]
    text = f"{found!r} {found} {found.model_dump()} {found.youtube_api_keys!r} {settings!r}"
    assert SECRET not in text


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("[]", []),
        ("", []),
        ('["a", "b", "a"]', ["a", "b"]),
        ('"one"', ["one"]),
        ("bare-text", ["bare-text"]),
        ("12345", ["12345"]),
        ('[{"key": "a", "project": "p"}, "b"]', ["a", "b"]),
    ],
)
def test_a_key_pool_is_read_in_every_form(
    text: str, keys: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("YOUTUBE_API_KEY_POOL_JSON", text)
    assert [key.get_secret_value() for key in get_settings().youtube_api_keys] == keys


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError):
        get_settings().env = "prod"
    with pytest.raises(AttributeError):
        settings.env = "prod"


@pytest.mark.parametrize(
    ("variables", "vault"),
    [
        ({"HF_REPO_ID": "a/b", "HF_TOKEN": "hf_x"}, "huggingface"),
        ({"HF_DATASET_ID": "a/b", "HF_TOKEN": "hf_x"}, "huggingface"),
        ({"GCS_BUCKET_NAME": "b"}, "gcs"),
        ({"VAULT_PROVIDER": "Memory"}, "memory"),
        ({"VAULT_PROVIDER": "gcs", "GCS_BUCKET_NAME": "b", "HF_REPO_ID": "a/b"}, "gcs"),
        ({}, "local"),
    ],
)
def test_the_vault_is_inferred(
    variables: dict[str, str], vault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert get_settings().vault == vault


@pytest.mark.parametrize(
    "variables",
    [
        {"ENV": "prod"},
        {"ENV": "staging"},
        {"VAULT_PROVIDER": "gcs"},
        {"VAULT_PROVIDER": "huggingface"},
        {"HF_REPO_ID": "a/b"},
        {"HF_REPO_ID": "a/b", "HF_TOKEN": "  "},
        {"HF_REPO_ID": "a/b", "GCS_BUCKET_NAME": "b"},
    ],
)
def test_a_vault_that_cannot_be_told_is_an_error(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError):
        _ = get_settings().vault


def test_all_that_a_vault_needs_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAULT_PROVIDER", "huggingface")
    with pytest.raises(ConfigurationError, match="needs HF_REPO_ID and HF_TOKEN"):
        _ = get_settings().vault


def test_a_dotenv_file_is_read_and_the_environment_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_text("JANITOR_RETENTION_DAYS=9\nHOT_MAX_BYTES=5MB\n")
    monkeypatch.setenv("HOT_MAX_BYTES", "6MB")
    assert (get_settings().janitor_retention_days, get_settings().hot_max_bytes) == (9, 6_000_000)


def test_the_example_names_every_setting_and_no_other() -> None:
    text = (Path(atlas.__file__).parents[1] / "ENV.example").read_text()
    named = set(re.findall(r"^#?([A-Z][A-Z0-9_]+)=", text, re.MULTILINE))
    known: set[object] = set()
    for name, field in Settings.model_fields.items():
        alias = field.validation_alias
        known |= set(alias.choices) if isinstance(alias, AliasChoices) else {name.upper()}
    assert named | {"HF_DATASET_ID"} == known


def test_one_key_in_an_object_is_no_list() -> None:
    with pytest.raises(ConfigurationError, match="takes a JSON list of keys or of"):
        Settings(_env_file=None, youtube_api_key_pool_json='{"key": "a"}')


@pytest.mark.parametrize("value", ["a,b,c", '["a,b"]', "a b", '"a","b"', '{"a"}'])
def test_several_keys_in_one_text_are_refused_not_taken_for_one(value: str) -> None:
    with pytest.raises(ConfigurationError, match="YOUTUBE_API_KEY_POOL_JSON"):
        Settings(youtube_api_key_pool_json=value)
