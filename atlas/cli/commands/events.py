"""``atlas events``: the log, its listeners, endpoints and rules."""

from __future__ import annotations

import asyncio
import json as json_
import signal
import uuid
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer

from atlas.cli import spans
from atlas.cli.output import answer, moment, number, out, run, table
from atlas.errors import InvalidInput

if TYPE_CHECKING:
    from atlas.events.delivery.deliverer import Deliverer
    from atlas.repositories.events.log import RecordedEvent

app = typer.Typer(help="What happened, who listens, and where it is delivered.")

JSON = typer.Option(False, "--json", help="One JSON document for programs.")


@app.callback(invoke_without_command=True)
def events(
    context: typer.Context,
    limit: int = typer.Option(20, "--limit", min=1, help="How many of the newest to show."),
    deliver_first: bool = typer.Option(False, "--deliver", help="Deliver what is due first."),
    json: bool = JSON,
) -> None:
    """Show recent events and what became of their deliveries."""
    if context.invoked_subcommand is None:
        _show_recent(limit, None, None, json, deliver_first)


@app.command("list")
def list_events(
    limit: int = typer.Option(20, "--limit", min=1, help="How many of the newest to show."),
    pattern: str = typer.Option(None, "--type", help="Only types of this pattern: video.*"),
    entity: str = typer.Option(None, "--entity", help="Only events of this entity."),
    json: bool = JSON,
) -> None:
    """Show recent events and what became of their deliveries."""
    _show_recent(limit, pattern, entity, json, False)


@app.command()
def show(
    event_id: str = typer.Argument(..., metavar="EVENT", help="Its id."), json: bool = JSON
) -> None:
    """Show one event and its deliveries."""
    from atlas.db import db
    from atlas.repositories.events.deliveries import EventDeliveries
    from atlas.repositories.events.log import EventLog

    identifier = _uuid(event_id)

    async def work() -> tuple[Any, Any]:
        async with db.transaction(read_only=True) as session:
            event = await EventLog(session).get(identifier)
            found = await EventDeliveries(session).of_events([identifier])
            return event, found.get(identifier, [])

    event, deliveries = run(work())
    facts = [{**asdict(one), "state": one.state} for one in deliveries]

    def render() -> None:
        for name, value in asdict(event).items():
            out.print(f"{name}: {value}", soft_wrap=True)
        rows = [
            (
                one["endpoint"],
                one["state"],
                one["attempts"],
                moment(one["due_at"]),
                one["last_error"],
            )
            for one in facts
        ]
        out.print(table("Deliveries", ("endpoint", "state", ">attempts", "due", "error"), rows))

    answer({"event": asdict(event), "deliveries": facts}, json, render)


@app.command()
def replay(
    event_ids: list[str] = typer.Argument(None, metavar="[EVENT]...", help="Ids of events."),
    endpoint: list[str] = typer.Option(None, "--endpoint", help="To this endpoint only."),
    since: str | None = spans.SINCE,
    until: str | None = spans.UNTIL,
    pattern: str = typer.Option(None, "--type", help="Only types of this pattern."),
    dead: bool = typer.Option(False, "--dead", help="Only dead letters."),
    json: bool = JSON,
) -> None:
    """Deliver events again, under the same webhook-id: by id, by time, or the dead letters of an endpoint.

    Each endpoint gets what its types, condition and rules take; an event and an endpoint that are
    both named go together in any case.
    """
    from atlas.db import db
    from atlas.events.delivery.router import subscriptions_of
    from atlas.events.patterns import check_pattern, to_regex
    from atlas.repositories.events.deliveries import EventDeliveries
    from atlas.repositories.events.endpoints import EventEndpoints

    if not (event_ids or since or until or endpoint):
        raise InvalidInput("say what to replay", hint="name events, --since, --until or --endpoint")
    ids = [_uuid(one) for one in event_ids] if event_ids else None
    regex = to_regex([check_pattern(pattern)]) if pattern else None
    first, last = spans.span_of(since, until)

    async def work() -> int:
        async with db.transaction() as session:
            endpoints = EventEndpoints(session)
            known = await endpoints.all()
            targets = [(await endpoints.get(name)).id for name in endpoint or []]
            # events that are named, to endpoints that are named, go whatever their patterns say
            is_named = ids is not None and targets
            return await EventDeliveries(session).replay(
                targets or [one.id for one in known],
                event_ids=ids,
                since=first,
                until=last,
                dead_only=dead,
                regex=regex,
                subscriptions=(
                    None if is_named else subscriptions_of(known, await endpoints.routes())
                ),
            )

    count = run(work())
    answer(
        {"replayed": count}, json, lambda: out.print(f"{number(count)} deliveries are due again")
    )


@app.command()
def deliver(
    once: bool = typer.Option(False, "--once", help="End when nothing is due."),
    json: bool = JSON,
) -> None:
    """Route and deliver, until SIGTERM or SIGINT, which lets what is in flight finish. Many may run."""
    from atlas.events import events as bus
    from atlas.notifications import notifier

    async def work() -> int:
        if once:
            return await bus.deliver_pending(notify=notifier.send)
        worker = bus.deliverer(notify=notifier.send)
        _stop_on_signals(worker)
        if not json:
            out.print("delivering; stop with Ctrl-C or SIGTERM")
        await worker.run()
        return worker.delivered

    delivered = run(work())
    answer({"delivered": delivered}, json, lambda: out.print(f"{number(delivered)} delivered"))


@app.command()
def listen(
    name: str = typer.Argument(..., help="The cursor's name, kept in the database."),
    pattern: str = typer.Option("*", "--type", help="Only types of this pattern."),
    since: str = typer.Option(
        None, "--since", help="Where a new name begins: a time, 7d, yesterday."
    ),
    count: int = typer.Option(None, "--count", min=1, help="End after so many events."),
    once: bool = typer.Option(False, "--once", help="End when nothing waits."),
    remove: bool = typer.Option(False, "--remove", help="Forget the cursor instead."),
) -> None:
    """Print events as JSON lines; the next start under this name goes on where this one ended."""
    from atlas.db import db
    from atlas.events import events as bus
    from atlas.repositories.events.cursors import EventCursors

    first = spans.moment_of(since, "since")

    async def forget() -> bool:
        async with db.transaction() as session:
            return await EventCursors(session).remove(name)

    async def work() -> None:
        left = count
        async for batch in bus.listen(
            name, pattern, since=first, limit=min(count or 500, 500), once=once
        ):
            for event in batch if left is None else batch[:left]:
                print(json_.dumps(_line(event), default=str, ensure_ascii=False), flush=True)
            await batch.acknowledge()
            if left is not None:
                left -= len(batch)
                if left <= 0:
                    break

    if remove:
        found = run(forget())
        out.print("forgotten" if found else "there was no such cursor")
    else:
        run(work())


def _line(event: Any) -> dict[str, Any]:
    from atlas.events.event import timestamp

    return {
        "id": event.id,
        "seq": event.seq,
        "type": event.event_type,
        "timestamp": timestamp(event.created_at),
        "entity_id": event.entity_id,
        "data": event.payload,
    }


def _show_recent(
    limit: int, pattern: str | None, entity: str | None, json: bool, deliver_first: bool
) -> None:
    from atlas.db import db
    from atlas.events import events as bus
    from atlas.events.patterns import check_pattern, to_regex
    from atlas.repositories.events.deliveries import EventDeliveries
    from atlas.repositories.events.log import EventLog

    regex = to_regex([check_pattern(pattern)]) if pattern else None

    async def work() -> tuple[int | None, list[RecordedEvent], dict[uuid.UUID, list[Any]]]:
        delivered = await bus.deliver_pending() if deliver_first else None
        async with db.transaction(read_only=True) as session:
            recent = await EventLog(session).recent(limit, event_type=regex, entity_id=entity)
            found = await EventDeliveries(session).of_events([one.id for one in recent])
            return delivered, recent, found

    delivered, recent, found = run(work())

    def render() -> None:
        if delivered is not None:
            out.print(f"{number(delivered)} delivered")
        rows = [
            (
                moment(one.created_at),
                one.id,
                one.event_type,
                one.entity_id,
                ", ".join(f"{each.endpoint}: {each.state}" for each in found.get(one.id, []))
                or "-",
            )
            for one in recent
        ]
        columns = ("time (UTC)", "id", "event", "entity", "deliveries")
        out.print(table("Events", columns, rows))

    listed = [
        {
            **asdict(one),
            "deliveries": [{**asdict(each), "state": each.state} for each in found.get(one.id, [])],
        }
        for one in recent
    ]
    answer({"delivered": delivered, "events": listed}, json, render)


def _stop_on_signals(worker: Deliverer) -> None:
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        try:
            loop.add_signal_handler(name, worker.stop)
        except NotImplementedError:  # Windows: KeyboardInterrupt ends it
            return


def _uuid(value: str) -> uuid.UUID:
    try:
        return uuid.UUID(value)
    except ValueError:
        raise InvalidInput(
            "an event's id is a UUID", field="event", value=value, hint="see `atlas events list`"
        ) from None
