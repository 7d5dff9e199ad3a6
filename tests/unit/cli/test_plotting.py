"""What a picture shows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from atlas.cli.plotting import known, velocity

START = datetime(2026, 1, 1, tzinfo=UTC)


def test_velocity_is_views_an_hour_since_the_last_known_sample() -> None:
    views = [100, None, 400, 400]
    rows = [
        {"timestamp": START + timedelta(minutes=45 * n), "views": count, "likes": None}
        for n, count in enumerate(views)
    ]
    assert velocity(rows) == [(rows[2]["timestamp"], 200.0), (rows[3]["timestamp"], 0.0)]
    assert known(rows, "likes") == []
