"""Channels."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import text

from atlas.repositories.base import Repository, as_json, chunks, known, merged, on_conflict
from atlas.types import Channel, check_id, utc

_FACTS = {
    "title": "coalesce(nullif(excluded.title, ''), c.title)",
    **known("c", "country", "custom_url", "created_at", "is_verified"),
}

#: Upserts `Channel` records from the JSON array ``:channels``. What is not known of a channel never
#: replaces what is.
UPSERT_CHANNELS = f"""
    INSERT INTO channels AS c (id, {", ".join(_FACTS)})
    SELECT id, {", ".join(_FACTS)}
    FROM jsonb_to_recordset(CAST(:channels AS jsonb)) AS n(
        id text COLLATE "C", title text, country text, custom_url text,
        created_at timestamptz, is_verified boolean)
    {on_conflict("c", "id", _FACTS)}
    RETURNING 1
"""


def checked_channels(channels: Iterable[Channel]) -> list[Channel]:
    """Each channel once, in byte order of the ids. Raises `InvalidInput`."""
    given = list(channels)
    for channel in given:
        check_id(channel.id, field="channel_id")
        if channel.created_at is not None:
            utc(channel.created_at, field="created_at")
    return merged(given)


class Channels(Repository):
    """Changes channels."""

    async def upsert(self, channels: Iterable[Channel]) -> None:
        """Add channels, or add to what is known of them."""
        for part in chunks(checked_channels(channels)):
            await self.session.execute(text(UPSERT_CHANNELS), {"channels": as_json(part)})
