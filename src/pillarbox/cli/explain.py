"""``pillarbox explain``: where a message would go."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import IO, Any, cast

import click

from pillarbox.app import Pillarbox
from pillarbox.cli.output import print_json, print_line, wants_json
from pillarbox.cli.places import json_option, load_box
from pillarbox.errors import ConfigurationError, UnknownMessageTypeError
from pillarbox.message import Message, parse_destination
from pillarbox.message.headers import SCHEMA_VERSION
from pillarbox.routing import Explanation
from pillarbox.routing.view import EXAMPLE
from pillarbox.serialization.faults import find_fault

FIELDS = frozenset({"id", "type", "key", "channel", "headers", "body"})
SHAPE = 'write {"type": "order.placed", "body": {…}}, and if you like "channel", "key", "headers", "id"'


@click.command()
@click.argument("app", metavar="MODULE:BOX")
@click.option("--message", "file", type=click.File(encoding="utf-8"), required=True, help="A JSON file; - for stdin.")
@click.option("--route", "only", metavar="NAME", help="Only the route of this name.")
@json_option
def explain(app: str, file: IO[str], only: str | None) -> None:
    """Say where a message would be routed, and why.

    Nothing is sent, and no database is opened.

    The file holds {"type": "order.placed", "body": {...}}, and if need be "channel", "key", "headers" and "id". Without
    a channel the message comes by that of its type; where the type is not known, every route is asked.
    """
    box = load_box(app)
    box.consumers()
    said = _read(file)
    found = _explained(box, said)
    if only is not None:
        found = tuple(one for one in found if one.route == only)
    if not found:
        named = "any route" if only is None else f"a route {only!r}"
        raise ConfigurationError(f'the message does not come to {named}; name its "channel", such as "topic:order"')
    if wants_json():
        print_json(found)
        return
    for one in found:
        print_line(str(one))


def _explained(box: Pillarbox, said: Mapping[str, Any]) -> tuple[Explanation, ...]:
    channel = said.get("channel")
    if channel is None:
        try:
            channel = box.registry.newest(said["type"]).destination
        except UnknownMessageTypeError:
            every = [(route, _message(box, said, route.source[0])) for route in box.routes]
            return tuple(
                found for route, message in every for found in box.explain(message) if found.route == route.name
            )
    return box.explain(_message(box, said, channel))


def _message(box: Pillarbox, said: Mapping[str, Any], channel: str) -> Message:
    """Return the message as it would be published: of the newest version, unless its headers name another."""
    newest = {one.name: str(one.version) for one in box.registry.types()}  # by version, the newest last
    version = {SCHEMA_VERSION: newest[said["type"]]} if said["type"] in newest else {}
    return Message(
        id=said.get("id", EXAMPLE),
        type=said["type"],
        destination=channel,
        key=said.get("key"),
        content_type=box.codec.content_type(),
        headers={**version, **said.get("headers", {})},
        body=json.dumps(said["body"]).encode(),
    )


def _read(file: IO[str]) -> Mapping[str, Any]:
    """Return what the file holds, each part as it must be.

    Raises:
        ConfigurationError: it is no message.
    """
    try:
        said: object = json.load(file)
    except (ValueError, RecursionError) as error:  # not UTF-8, no JSON, or too deep
        raise ConfigurationError(f"{file.name} holds no JSON: {error}") from None
    if not isinstance(said, dict):
        raise ConfigurationError(f"{file.name} holds no message; {SHAPE}")
    message = cast("dict[str, Any]", said)
    headers = message.get("headers", {})
    said_of_it = [message[name] for name in ("key", "channel") if message.get(name) is not None]
    texts: list[object] = [message.get("type"), message.get("id", ""), *said_of_it]
    if isinstance(headers, dict):
        texts += cast("dict[str, Any]", headers).values()
    if (
        message.keys() - FIELDS
        or "body" not in message
        or not isinstance(headers, dict)
        or not all(isinstance(text, str) and find_fault(text) is None for text in texts)
    ):
        raise ConfigurationError(f"{file.name} holds no message; {SHAPE}")
    if message.get("channel") is not None:
        parse_destination(message["channel"])
    return message
