"""What programs may rely on: what is exported, that it is documented, and how it may go."""

from __future__ import annotations

import ast
import enum
import importlib
import inspect
import re
from pathlib import Path

import pytest

import atlas
from atlas.config import Settings, get_settings, reset_settings, settings
from tools.surface import PUBLIC, names

ATLAS = Path(atlas.__file__).parent


@pytest.mark.parametrize("module", PUBLIC)
def test_a_public_module_says_what_it_exports_and_every_name_is_there(module: str) -> None:
    home = importlib.import_module(module)
    assert home.__all__ and len(set(home.__all__)) == len(home.__all__)
    assert all(hasattr(home, name) for name in home.__all__)
    assert inspect.getdoc(home)


@pytest.mark.parametrize("module", PUBLIC)
def test_every_public_name_says_what_it_is_for(module: str) -> None:
    missing = []
    for one in names(module):
        value = getattr(importlib.import_module(module), one.name)
        documented = inspect.isclass(value) or inspect.isroutine(value)
        if documented and not one.doc:
            missing.append(one.name)
        if inspect.isclass(value) and issubclass(value, enum.Enum):
            continue
        missing += [
            f"{one.name}.{member.name}"
            for member in one.members
            if not member.doc and member.kind != "field"
        ]
    assert missing == []


def test_settings_answer_by_the_names_of_their_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JANITOR_RETENTION_DAYS", "3")
    monkeypatch.setenv("HF_DATASET_ID", "me/data")
    monkeypatch.setenv("DATABASE_URL", "postgresql://u:secret@h/d")
    reset_settings()
    assert settings.JANITOR_RETENTION_DAYS == get_settings().JANITOR_RETENTION_DAYS == 3
    assert settings.HF_DATASET_ID == settings.HF_REPO_ID == "me/data"
    assert "secret" not in str(settings.DATABASE_URL)
    for name in Settings.model_fields:
        assert getattr(settings, name.upper()) == getattr(settings, name)
    for wrong in ("NO_SUCH", "Env", "MODEL_FIELDS", "API_KEY"):
        with pytest.raises(AttributeError):
            getattr(settings, wrong)


def test_keys_are_there_as_the_platform_reads_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("YOUTUBE_API_KEY_POOL_JSON", '["a","b","c","d","e"]')
    reset_settings()
    assert settings.api_keys == settings.API_KEYS == ["a"]
    assert settings.key_rings == {"hunting": ["a"], "tracking": ["a"], "archeology": ["a"]}
    monkeypatch.setenv("COMPLIANCE_MODE", "false")
    monkeypatch.setenv("KEY_POOL_ARCHEOLOGY_SIZE", "2")
    reset_settings()
    assert settings.api_keys == ["a", "b", "c", "d", "e"]
    rings = {"hunting": ["a", "b"], "tracking": ["c"], "archeology": ["d", "e"]}
    assert settings.key_rings == settings.KEY_RINGS == rings


def test_the_scheduling_mixin_has_both_its_names() -> None:
    from atlas.adapters.maia import MaiaDAO
    from atlas.adapters.maia_adaptive_scheduling import AdaptiveSchedulingMixin
    from atlas.adapters.maia_ghost import GhostTrackingMixin

    assert AdaptiveSchedulingMixin is GhostTrackingMixin
    assert issubclass(MaiaDAO, AdaptiveSchedulingMixin)


def test_what_is_deprecated_says_since_when_what_instead_and_until_when() -> None:
    """By `typing_extensions.deprecated`, which type checkers see too; CONTRIBUTING has the policy."""
    for path in ATLAS.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            for decorator in getattr(node, "decorator_list", []):
                if "deprecated(" not in ast.unparse(decorator):
                    continue
                (message,) = decorator.args
                wanted = r"deprecated since \d+\.\d+, use .+; goes in \d+\.\d+"
                assert re.fullmatch(wanted, message.value), f"{path}: {message.value}"
