"""The pace of webhooks over all processes, and groups of errors. Each method is one statement."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import text

from atlas.repositories.base import Repository, as_json

__all__ = ["Announced", "ErrorGroup", "ErrorGroups", "Lanes", "Slot", "Tally"]

#: Invalid answers in ten minutes after which a webhook is silent until they are over: a tenth of what
#: Discord blocks an address for.
INVALID_LIMIT = 1_000
_WINDOW = "interval '10 minutes'"

# In order of the key: two reservations never wait for each other crosswise.
_RESERVE = text(f"""
    INSERT INTO notification_lanes AS l (webhook, next_at)
    SELECT key, clock_timestamp() + make_interval(secs => :spacing)
    FROM unnest(CAST(:keys AS text[])) key ORDER BY key
    ON CONFLICT (webhook) DO UPDATE SET
        next_at = greatest(l.next_at, clock_timestamp()) + make_interval(secs => :spacing)
    RETURNING extract(epoch FROM next_at - clock_timestamp()) - :spacing, dead_since IS NOT NULL,
        CASE WHEN invalid >= {INVALID_LIMIT}
             THEN extract(epoch FROM invalid_since + {_WINDOW} - clock_timestamp()) ELSE 0 END
    """)
_NOTE = text(f"""
    UPDATE notification_lanes SET
        next_at = greatest(next_at, clock_timestamp() + make_interval(secs => :pause)),
        dead_since = CASE WHEN :dead AND webhook = :webhook THEN coalesce(dead_since, now()) END,
        invalid_since = CASE WHEN invalid_since < now() - {_WINDOW} THEN now() ELSE invalid_since END,
        invalid = CASE WHEN invalid_since < now() - {_WINDOW} THEN 0 ELSE invalid END
            + CASE WHEN webhook = :webhook THEN :invalid ELSE 0 END
    WHERE webhook IN (SELECT webhook FROM notification_lanes WHERE webhook = ANY (CAST(:keys AS text[]))
                      ORDER BY webhook FOR UPDATE)
    """)
# A row that no webhook has counts what all processes announce in a minute.
_GRANT = text("""
    INSERT INTO notification_lanes AS l (webhook, invalid) VALUES ('#' || :name, :wanted)
    ON CONFLICT (webhook) DO UPDATE SET
        invalid_since = CASE WHEN l.invalid_since < now() - interval '1 minute'
            THEN now() ELSE l.invalid_since END,
        invalid = :wanted + CASE WHEN l.invalid_since < now() - interval '1 minute'
            THEN 0 ELSE l.invalid END
    RETURNING invalid - :wanted
    """)

# Who makes a group, or makes it open again, or comes first after a digest was due, is elected by the row's
# lock: one of all processes announces it. `announced` grows when that was sent: if the process dies before,
# the first digest tells people.
_ADD = text("""
    INSERT INTO error_groups AS g (fingerprint, algorithm, kind, place, message, level, stack, context,
                                   count, announced, announced_as, digest_at)
    SELECT fingerprint, algorithm, kind, place, message, level, stack, context, count, 0, 'new',
           now() + interval '5 minutes'
    FROM jsonb_to_recordset(CAST(:tallies AS jsonb)) AS t (
        fingerprint text, algorithm smallint, kind text, place text, message text, level text,
        stack text, context jsonb, count bigint)
    ORDER BY fingerprint
    ON CONFLICT (fingerprint) DO UPDATE SET
        count = g.count + excluded.count,
        last_at = now(),
        message = excluded.message, stack = excluded.stack, context = excluded.context,
        state = CASE g.state WHEN 'resolved' THEN 'open' ELSE g.state END,
        announced_as = CASE WHEN g.state = 'resolved' THEN 'regression' END,
        digest_at = CASE WHEN g.state = 'resolved' OR g.digest_at IS NULL
            THEN now() + CASE WHEN g.state = 'resolved' THEN interval '5 minutes'
                              ELSE interval '1 hour' END
            ELSE g.digest_at END
    RETURNING fingerprint, announced_as, count
    """)
_CONFIRM = text("""
    WITH sent AS MATERIALIZED (
        SELECT g.fingerprint, s.count FROM error_groups g
        JOIN unnest(CAST(:fingerprints AS text[]), CAST(:counts AS bigint[])) AS s (fingerprint, count)
            USING (fingerprint)
        ORDER BY g.fingerprint FOR UPDATE OF g
    )
    UPDATE error_groups g SET announced = greatest(g.announced, sent.count)
    FROM sent WHERE g.fingerprint = sent.fingerprint
    """)
_DIGEST = text("""
    WITH due AS MATERIALIZED (
        SELECT fingerprint, count - announced AS more FROM error_groups
        WHERE state = 'open' AND digest_at <= now() ORDER BY fingerprint FOR UPDATE SKIP LOCKED
    )
    UPDATE error_groups g SET announced = g.count, digests = g.digests + sign(due.more)::int,
        digest_at = CASE WHEN due.more > 0 THEN now() + interval '1 hour' END
    FROM due WHERE g.fingerprint = due.fingerprint
    RETURNING g.fingerprint, g.kind, g.place, g.message, g.level, due.more, g.count, g.first_at
    """)
_COLUMNS = "fingerprint, kind, place, message, level, state, count, first_at, last_at"
_DELETE_OLD = text("""
    WITH deleted AS (
        DELETE FROM error_groups
        WHERE last_at < now() - make_interval(days => :days) AND state <> 'muted' RETURNING 1
    ) SELECT count(*) FROM deleted
    """)


@dataclass(frozen=True, slots=True)
class Slot:
    """When this process may send to a webhook: in ``wait`` seconds, not at all if it is ``dead``.

    ``silent`` seconds more nothing is sent, after too many invalid answers.
    """

    wait: float
    dead: bool
    silent: float


@dataclass(frozen=True, slots=True)
class Tally:
    """Errors of one fingerprint that a process saw, described by the last of them."""

    fingerprint: str
    algorithm: int
    kind: str
    place: str
    message: str
    level: str
    stack: str
    context: Mapping[str, Any]
    count: int


@dataclass(frozen=True, slots=True)
class Announced:
    """A group that this process has to announce: ``new`` or ``regression``, with its count by now."""

    fingerprint: str
    reason: str
    count: int


@dataclass(frozen=True, slots=True)
class Digest:
    """A group, and ``more`` errors than were announced: all of them where its announcement was lost."""

    fingerprint: str
    kind: str
    place: str
    message: str
    level: str
    more: int
    count: int
    first_at: datetime


@dataclass(frozen=True, slots=True)
class ErrorGroup:
    """Errors with one fingerprint; ``state`` is open, muted or resolved."""

    fingerprint: str
    kind: str
    place: str
    message: str
    level: str
    state: str
    count: int
    first_at: datetime
    last_at: datetime


class Lanes(Repository):
    """Hands out slots of webhooks."""

    async def reserve(self, webhook: str, spacing: float, bucket: str | None = None) -> Slot:
        """The next slot that is free for the webhook, and for all of its bucket if that is known.

        The one after it is ``spacing`` seconds later.
        """
        values = {"keys": _keys(webhook, bucket), "spacing": spacing}
        rows = (await self.session.execute(_RESERVE, values)).all()
        return Slot(
            max(0.0, *(float(wait) for wait, _, _ in rows)),
            any(dead for _, dead, _ in rows),
            max(0.0, *(float(silent) for _, _, silent in rows)),
        )

    async def note(
        self, webhook: str, *, pause: float, dead: bool, invalid: bool, bucket: str | None = None
    ) -> None:
        """What an answer says to all processes."""
        values = {"webhook": webhook, "pause": pause, "dead": dead, "invalid": int(invalid)}
        await self.session.execute(_NOTE, {**values, "keys": _keys(webhook, bucket)})

    async def grant(self, name: str, wanted: int, most: int) -> int:
        """How many of ``wanted`` announcements may go, where all processes make ``most`` a minute."""
        before = await self.session.scalar(_GRANT, {"name": name, "wanted": wanted})
        return min(wanted, max(0, most - int(before or 0)))


def _keys(webhook: str, bucket: str | None) -> list[str]:
    return [webhook] if bucket is None else [webhook, bucket]


class ErrorGroups(Repository):
    """Groups of errors."""

    async def add(self, tallies: Sequence[Tally]) -> list[Announced]:
        """Count errors; returns the groups that the caller has to announce, and nobody else does."""
        rows = await self.session.execute(_ADD, {"tallies": as_json(tallies)})
        return [
            Announced(fingerprint, reason, count)
            for fingerprint, reason, count in rows
            # the insert's own word is left in the row, until the next errors clear it
            if reason is not None
        ]

    async def confirm(self, counts: Mapping[str, int]) -> None:
        """These were announced, with so many errors each."""
        values = {"fingerprints": list(counts), "counts": list(counts.values())}
        await self.session.execute(_CONFIRM, values)

    async def digests(self) -> list[Digest]:
        """Groups whose digest is due and that have grown; each is given to one caller only."""
        return [Digest(*row) for row in await self.session.execute(_DIGEST) if row.more > 0]

    async def latest(self, state: str | None, limit: int) -> list[ErrorGroup]:
        """Groups, the latest first."""
        rows = await self.session.execute(
            text(
                f"SELECT {_COLUMNS} FROM error_groups "
                "WHERE CAST(:state AS text) IS NULL OR state = :state "
                "ORDER BY last_at DESC, fingerprint LIMIT :limit"
            ),
            {"state": state, "limit": limit},
        )
        return [ErrorGroup(*row) for row in rows]

    async def show(self, prefix: str) -> list[dict[str, Any]]:
        """The groups whose fingerprint begins with ``prefix``, with stack and context."""
        rows = await self.session.execute(
            text(
                f"SELECT {_COLUMNS}, stack, context FROM error_groups "
                "WHERE starts_with(fingerprint, :prefix) ORDER BY fingerprint LIMIT 20"
            ),
            {"prefix": prefix},
        )
        return [dict(row) for row in rows.mappings()]

    async def set_state(self, fingerprints: Iterable[str], state: str) -> list[str]:
        """Mute, resolve or open groups; returns the fingerprints there were."""
        return list(
            await self.session.scalars(
                text(
                    "UPDATE error_groups SET state = :state "
                    "WHERE fingerprint = ANY (CAST(:fingerprints AS text[])) RETURNING fingerprint"
                ),
                {"fingerprints": list(fingerprints), "state": state},
            )
        )

    async def delete_old(self, days: int) -> int:
        """Forget groups without an error for so long; muted ones are kept."""
        return int((await self.session.execute(_DELETE_OLD, {"days": days})).scalar_one())
