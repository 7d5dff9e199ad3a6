"""Which errors are the same."""

from __future__ import annotations

from collections.abc import Callable

from atlas.notifications.fingerprint import chain, fingerprint, place


def caught(raising: Callable[[], object]) -> Exception:
    try:
        raising()
    except Exception as error:
        return error
    raise AssertionError("it did not raise")


def fail(text: str) -> None:
    raise ValueError(text)


def fail_elsewhere(text: str) -> None:
    raise ValueError(text)


def mark(raising: Callable[[], object]) -> str:
    error = caught(raising)
    return fingerprint(error, str(error))


def chained(cause: type[Exception]) -> None:
    try:
        raise cause("inner")
    except cause as error:
        raise ValueError("outer") from error


def test_the_message_does_not_tell_errors_apart_and_the_place_does() -> None:
    # one line, as the line itself takes part
    one, two = (mark(lambda text=text: fail(text)) for text in ("a", "b"))  # type: ignore[misc]
    assert one == two
    assert one != mark(lambda: fail_elsewhere("a"))


def test_the_types_along_the_chain_tell_errors_apart() -> None:
    marks = [mark(lambda kind=kind: chained(kind)) for kind in (KeyError, OSError, KeyError)]  # type: ignore[misc]
    assert marks[0] == marks[2] != marks[1]


def test_an_error_that_was_never_raised_is_told_by_its_message_without_numbers() -> None:
    assert fingerprint(ValueError("row 5"), "row 5") == fingerprint(ValueError("row 7"), "row 7")
    assert fingerprint(ValueError("row 5"), "row 5") != fingerprint(ValueError("x"), "x")


def test_a_chain_that_bites_its_tail_ends() -> None:
    one, two = ValueError("a"), ValueError("b")
    one.__cause__, two.__cause__ = two, one
    assert chain(one) == [one, two]


def test_the_place_is_the_programs_own_frame() -> None:
    import json

    error = caught(lambda: json.loads("{"))
    assert place(error).startswith(__name__)
