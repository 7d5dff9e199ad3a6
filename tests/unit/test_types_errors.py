"""The error tree and the checks at the gates: what callers branch on."""

from __future__ import annotations

import inspect
import pickle
import re
from datetime import UTC, datetime, tzinfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas import errors
from atlas.errors import AtlasError, InvalidInput
from atlas.types import Sample, check_id, utc

CLASSES = {
    name: one
    for name, one in vars(errors).items()
    if inspect.isclass(one) and issubclass(one, AtlasError)
}


def test_the_tree_in_the_docstring_is_the_tree_of_the_classes() -> None:
    drawn: dict[str, str] = {}
    path: list[str] = []
    for line in str(errors.__doc__).splitlines():
        found = re.match(r"    (?P<lines>[│ ]*(?:[├└]── )?)(?P<name>[A-Z]\w+)", line)
        if found:
            path[len(found["lines"]) // 4 :] = [found["name"]]
            drawn[found["name"]] = path[-2] if len(path) > 1 else "Exception"
    assert set(drawn) == set(CLASSES)
    for name, parent in drawn.items():
        assert parent in {base.__name__ for base in CLASSES[name].__mro__}


@pytest.mark.parametrize(
    ("name", "builtin"),
    [("ConfigurationError", ValueError), ("InvalidInput", ValueError), ("NotFound", LookupError)],
)
def test_errors_are_also_the_builtin_that_older_code_catches(
    name: str, builtin: type[Exception]
) -> None:
    assert issubclass(CLASSES[name], builtin)


def test_an_error_reads_as_message_and_hint() -> None:
    assert str(AtlasError("no", hint="do this")) == "no (do this)"
    assert str(AtlasError("no")) == "no"
    assert str(errors.MigrationsPending("old schema")).endswith("(run `atlas db upgrade`)")
    assert AtlasError("no").hint is None


@pytest.mark.parametrize("value", ["", "a" * 65, "a b", "a/b", "..", "ä", "a\n", "a\0", None, 5])
def test_an_id_that_could_leave_its_folder_or_column_is_refused(value: object) -> None:
    with pytest.raises(InvalidInput) as caught:
        check_id(value, field="channel_id", row=3)
    assert (caught.value.field, caught.value.row, caught.value.value) == ("channel_id", 3, value)
    assert "channel_id in row 3" in str(caught.value)
    assert len(str(caught.value)) < 200


@given(st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True))
def test_every_well_formed_id_passes_unchanged(value: str) -> None:
    assert check_id(value) == value


def test_a_time_without_zone_is_refused_and_one_with_a_zone_is_kept() -> None:
    class Vague(tzinfo):
        def utcoffset(self, dt: datetime | None) -> None:
            return None

        dst = tzname = utcoffset

    now = datetime.now(UTC)
    assert utc(now) is now
    for naive in (now.replace(tzinfo=None), now.replace(tzinfo=Vague())):
        with pytest.raises(InvalidInput, match="time zone"):
            utc(naive)


def test_a_sample_does_not_take_unknown_for_zero() -> None:
    sample = Sample("v", datetime.now(UTC))
    assert (sample.views, sample.likes, sample.comment_count) == (None, None, None)
    assert pickle.loads(pickle.dumps(sample)) == sample
