"""How dates are written is decided from the whole column; what two ways fit is asked about."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from atlas.errors import InvalidInput
from atlas.importing.columns.times import Survey, parse_date, plain, reader

NOON = datetime(2017, 11, 14, 12, 30, tzinfo=UTC)


def read(
    *column: str, formats: tuple[str, ...] = (), year: int | None = None
) -> list[datetime | None]:
    survey = Survey()
    survey.see(column)
    parse = reader(survey, formats, year)
    found: list[datetime | None] = []
    for value in column:
        try:
            found.append(parse(value))
        except ValueError:
            found.append(None)
    return found


@pytest.mark.parametrize(
    "written",
    [
        "2017-11-14T12:30:00Z",
        "2017-11-14T12:30:00.000Z",
        "2017-11-14 12:30",
        "2017-11-14 12:30:00 UTC",
        "2017-11-14 12:30:00+00:00",
        "2017-11-14 12:30:00 +0000 UTC",
        "2017-11-14T14:30:00+0200",
        "2017-11-14T07:00:00-05:30",
        "1510662600",
        "1510662600.0",
        "1510662600000",
        "1510662600000000",
        "20171114123000",
        "20171114T123000Z",
        "Nov 14, 2017, 12:30:00 PM",
        "Nov 14, 2017, 12:30:00 PM UTC",
        "14 November 2017 12:30",
        "Tue, 14 Nov 2017 12:30:00 GMT",
        "Tue Nov 14 12:30:00 2017",
        "2017年11月14日 12:30",
        "14/11/2017 12:30",
        "11/14/2017 12:30 PM",
        "14.11.2017, 12:30:00",
    ],
)
def test_common_spellings_are_read_alone(written: str) -> None:
    assert read(written) == [NOON]


@pytest.mark.parametrize(
    "written",
    [
        "",
        "yesterday",
        "5",
        "2017",
        "2017-13-01",
        "2017-02-30",
        "99999999",
        "45000.5",
        "\x1b[2J",
        "1" * 30,
    ],
)
def test_what_is_no_date_is_none(written: str) -> None:
    assert plain(written) is None


def test_the_order_is_decided_by_the_whole_column() -> None:
    assert read("17.14.11", "17.01.12", "18.02.01")[1] == datetime(2017, 12, 1, tzinfo=UTC)
    assert read("03/04/2018", "25/04/2018")[0] == datetime(2018, 4, 3, tzinfo=UTC)
    assert read("03/04/2018", "04/25/2018")[0] == datetime(2018, 3, 4, tzinfo=UTC)
    assert read("3-4-18", "25-4-18")[0] == datetime(2018, 4, 3, tzinfo=UTC)
    assert read("2017-11-12", "2017-14-11", "2017-15-11")[0] == datetime(2017, 12, 11, tzinfo=UTC)
    # one wrong date does not turn the others round
    assert read("2017-11-12", "2017-11-13", "2017-14-11") == [
        datetime(2017, 11, 12, tzinfo=UTC),
        datetime(2017, 11, 13, tzinfo=UTC),
        None,
    ]


@pytest.mark.parametrize(
    ("column", "options"),
    [
        (["03/04/2018", "05/06/2018"], ["%d/%m/%Y", "%m/%d/%Y"]),
        (["17.10.11", "17.11.12"], ["%y.%m.%d", "%y.%d.%m", "%d.%m.%y"]),
        (["3.4.18 10:00"], ["%d.%m.%y %H:%M"]),
    ],
)
def test_an_order_that_cannot_be_told_is_asked_about(column: list[str], options: list[str]) -> None:
    with pytest.raises(InvalidInput, match="order of day and month") as asked:
        read(*column)
    for option in options:
        assert f"--date-format '{option}'" in str(asked.value.hint)
        read(*column, formats=(option,))


def test_a_day_that_all_orders_read_alike_needs_no_question() -> None:
    assert read("04/04/2018") == [datetime(2018, 4, 4, tzinfo=UTC)]


def october(day: int) -> datetime:
    return datetime(2017, 10, day, tzinfo=UTC)


def test_a_zero_that_a_spreadsheet_dropped_is_told_by_the_other_months() -> None:
    for formats in ((), ("%d.%m",)):
        assert read("13.09", "1.1", "10.1", "31.1", formats=formats, year=2017)[1:] == [
            october(1),
            october(10),
            october(31),
        ]
        assert read("13.1", "5.1", "5.10", formats=formats, year=2017) == [
            datetime(2017, 1, 13, tzinfo=UTC),
            datetime(2017, 1, 5, tzinfo=UTC),
            october(5),
        ]
        assert read("13.1", "5.1", "5.2", formats=formats, year=2017)[1] == datetime(
            2017, 1, 5, tzinfo=UTC
        )


def test_a_file_of_january_does_not_become_october_unasked() -> None:
    for formats in ((), ("%d.%m",)):
        with pytest.raises(InvalidInput, match="January") as asked:
            read("5.1", "13.1", "31.1", formats=formats, year=2017)
        assert "%d.%-m" in str(asked.value.hint)
    assert read("5.1", formats=("%d.%-m",), year=2017) == [datetime(2017, 1, 5, tzinfo=UTC)]
    assert read("5.1", formats=("%d.%0m",), year=2017) == [october(5)]


def test_dates_without_a_year_need_one_and_no_more() -> None:
    with pytest.raises(InvalidInput, match="no year") as asked:
        read("13.09", "1.10")
    assert asked.value.hint == "give --year"
    with pytest.raises(InvalidInput, match="2 ways"):
        read("3/4", "5/6", year=2017)
    assert read("3/4", "25/6", year=2017)[0] == datetime(2017, 4, 3, tzinfo=UTC)


@pytest.mark.parametrize("written", ["24.09l7yxJDFvTRM", "31.2", "1.2", "", "13/09", "32.09"])
def test_a_date_that_does_not_fit_its_format_is_not_guessed(written: str) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        parse_date(written, ("%d.%m",), 2017)


def test_several_formats_are_tried_in_order_and_zones_are_kept() -> None:
    formats = ("%Y-%m-%d", "%d/%m/%y", "%Y-%m-%dT%H:%M%z")
    assert parse_date("05/03/18", formats, None) == datetime(2018, 3, 5, tzinfo=UTC)
    assert parse_date("2018-03-05T01:00+0200", formats, None) == datetime(
        2018, 3, 4, 23, tzinfo=UTC
    )


@pytest.mark.parametrize(("formats", "year"), [(("%d.%m",), None), (("day",), 2017)])
def test_a_format_that_cannot_be_is_refused(formats: tuple[str, ...], year: int | None) -> None:
    with pytest.raises(InvalidInput):
        read("13.09", formats=formats, year=year)
