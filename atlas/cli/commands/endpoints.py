"""``atlas events endpoints`` and ``atlas events route``: where events are delivered."""

from __future__ import annotations

import json as json_
import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer

from atlas.cli.output import answer, moment, number, out, run, table
from atlas.errors import InvalidInput

if TYPE_CHECKING:
    from atlas.repositories.events.endpoints import Endpoint

endpoints = typer.Typer(no_args_is_help=True, help="Where events are delivered.")
route = typer.Typer(no_args_is_help=True, help="Rules: which events go where.")

JSON = typer.Option(False, "--json", help="One JSON document for programs.")
NAME = typer.Argument(..., help="The endpoint's name.")


@endpoints.command()
def add(
    name: str = NAME,
    url: str = typer.Argument(
        ..., help="https://host/path, or env:NAME to keep it out of the database."
    ),
    secret: str = typer.Option(
        None, "--secret", help="env:NAME of whsec_..., or - to read it from ATLAS_ENDPOINT_SECRET."
    ),
    patterns: list[str] = typer.Option(
        ["*"], "--type", help="Types to deliver: video.*; repeatable."
    ),
    condition: str = typer.Option(
        None, "--where", help="A JSON object that payloads must contain."
    ),
    header: list[str] = typer.Option(None, "--header", help="Name: value; repeatable."),
    max_in_flight: int = typer.Option(
        10, "--max-in-flight", help="Requests at once, of one process."
    ),
    json: bool = JSON,
) -> None:
    """Add an endpoint; it gets events from now on."""
    from atlas.events import events as bus

    if secret == "-":
        secret = os.environ.get("ATLAS_ENDPOINT_SECRET", "")
    made = run(
        bus.endpoints.add(
            name,
            url,
            secret=secret,
            patterns=patterns,
            condition=_json(condition),
            headers=_headers(header or []),
            max_in_flight=max_in_flight,
        )
    )
    answer(_facts(made), json, lambda: out.print(f"{made.name} gets {', '.join(made.patterns)}"))


@endpoints.command("list")
def list_endpoints(json: bool = JSON) -> None:
    """Show endpoints, their state, and how many deliveries wait."""
    from atlas.events import events as bus

    async def work() -> tuple[list[Endpoint], dict[int, tuple[int, int, int]]]:
        return await bus.endpoints.list(), await bus.endpoints.counts()

    found, counts = run(work())
    listed = []
    for one in found:
        waiting, delivered, dead = counts.get(one.id, (0, 0, 0))
        listed.append({**_facts(one), "waiting": waiting, "delivered": delivered, "dead": dead})

    def render() -> None:
        rows = [
            (
                one["name"],
                ", ".join(one["patterns"]) or "by rules",
                one["state"],
                moment(one["paused_until"]),
                number(one["waiting"]),
                number(one["delivered"]),
                number(one["dead"]),
                one["reason"],
            )
            for one in listed
        ]
        columns = ("name", "types", "state", "until", ">waiting", ">delivered", ">dead", "reason")
        out.print(table("Endpoints", columns, rows))

    answer(listed, json, render)


@endpoints.command()
def enable(name: str = NAME, json: bool = JSON) -> None:
    """Deliver again; what was held is due at once."""
    from atlas.events import events as bus

    changed = run(bus.endpoints.enable(name))
    text = f"{name} is active" if changed else f"{name} was active already"
    answer({"changed": changed}, json, lambda: out.print(text))


@endpoints.command()
def disable(name: str = NAME, json: bool = JSON) -> None:
    """Deliver no more; what comes due is held until it is enabled."""
    from atlas.events import events as bus

    changed = run(bus.endpoints.disable(name))
    text = (
        f"{name} is disabled; its deliveries are held"
        if changed
        else f"{name} was disabled already"
    )
    answer({"changed": changed}, json, lambda: out.print(text))


@endpoints.command()
def remove(name: str = NAME, json: bool = JSON) -> None:
    """Remove an endpoint, its rules and its open deliveries."""
    from atlas.events import events as bus

    discarded = run(bus.endpoints.remove(name))
    answer(
        {"discarded": discarded},
        json,
        lambda: out.print(f"removed, with {number(discarded)} deliveries that waited"),
    )


@endpoints.command()
def rotate(
    name: str = NAME,
    next_secret: str = typer.Option(None, "--secret", help="The second secret, as in add."),
    json: bool = JSON,
) -> None:
    """Sign with a second secret too; without --secret, end the rotation: the second becomes the only one."""
    from atlas.events import events as bus

    if next_secret == "-":
        next_secret = os.environ.get("ATLAS_ENDPOINT_SECRET", "")
    run(bus.endpoints.rotate(name, next_secret))
    text = "signed with both secrets" if next_secret else "signed with the new secret alone"
    answer({"rotating": bool(next_secret)}, json, lambda: out.print(text))


@route.command("add")
def add_route(
    pattern: str = typer.Argument(..., help="Types: video.*"),
    target: str = typer.Argument(..., help="An endpoint, discord:CHANNEL, or handler:NAME."),
    condition: str = typer.Option(
        None, "--where", help="A JSON object that payloads must contain."
    ),
    json: bool = JSON,
) -> None:
    """Add a rule; it takes events from now on."""
    from atlas.events import events as bus

    made = run(bus.endpoints.add_route(pattern, target, _json(condition)))
    answer(
        asdict(made), json, lambda: out.print(f"rule {made.id}: {made.pattern} to {made.target}")
    )


@route.command("list")
def list_routes(json: bool = JSON) -> None:
    """Show the rules."""
    from atlas.events import events as bus

    found = run(bus.endpoints.routes())
    rows = [(one.id, one.pattern, _text(one.condition), one.target) for one in found]
    answer(
        [asdict(one) for one in found],
        json,
        lambda: out.print(table("Rules", (">id", "types", "condition", "target"), rows)),
    )


@route.command("remove")
def remove_route(
    route_id: int = typer.Argument(..., metavar="ID", help="The rule's number."), json: bool = JSON
) -> None:
    """Remove a rule; what it has routed stays."""
    from atlas.events import events as bus

    run(bus.endpoints.remove_route(route_id))
    answer({"removed": route_id}, json, lambda: out.print("removed"))


@route.command()
def explain(
    event_id: str = typer.Argument(..., metavar="EVENT", help="An event's id."), json: bool = JSON
) -> None:
    """Show each rule, whether it takes the event, and why."""
    from atlas.cli.commands.events import _uuid
    from atlas.db import db
    from atlas.events.delivery.router import explain as explain_event
    from atlas.repositories.events.endpoints import EventEndpoints
    from atlas.repositories.events.log import EventLog

    identifier = _uuid(event_id)

    async def work() -> Any:
        async with db.transaction(read_only=True) as session:
            event = await EventLog(session).get(identifier)
            found = EventEndpoints(session)
            return explain_event(event, await found.all(), await found.routes())

    explained = run(work())
    rows = [(one.rule, one.target, "yes" if one.matches else "no", one.why) for one in explained]
    answer(
        [asdict(one) for one in explained],
        json,
        lambda: out.print(table("Rules", ("rule", "target", "takes it", "why"), rows)),
    )


def _facts(endpoint: Endpoint) -> dict[str, Any]:
    """What may be shown: neither address, secrets nor values of headers."""
    hidden = {"secret", "next_secret", "headers", "url", "probe"}
    facts = {key: value for key, value in asdict(endpoint).items() if key not in hidden}
    facts["signed"] = endpoint.secret is not None
    facts["rotating"] = endpoint.next_secret is not None
    facts["headers"] = sorted(endpoint.headers)
    facts["url"] = endpoint.url if not endpoint.url.startswith("http") else "…"
    return facts


def _json(value: str | None) -> Any:
    if value is None:
        return None
    try:
        return json_.loads(value)
    except ValueError:
        raise InvalidInput("--where takes a JSON object", field="condition") from None


def _headers(values: list[str]) -> dict[str, str]:
    found = {}
    for value in values:
        name, colon, text = value.partition(":")
        if not colon:
            raise InvalidInput("--header takes Name: value", field="headers")
        found[name.strip()] = text.strip()
    return found


def _text(condition: dict[str, Any] | None) -> str:
    return "" if condition is None else json_.dumps(condition, ensure_ascii=False)
