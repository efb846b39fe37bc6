"""Write the generated pages of the reference: the schema from its tables, the events from their classes, and so on."""

import dataclasses
import importlib
import inspect
import pkgutil
import re
import sys
from pathlib import Path
from typing import get_args, get_type_hints

from sqlalchemy import CheckConstraint, Table, UniqueConstraint
from sqlalchemy.dialects import postgresql, sqlite

import pillarbox.brokers
from pillarbox.channel import BrokerCapabilities
from pillarbox.observe import Event
from pillarbox.relational.migrations import CURRENT_VERSION
from pillarbox.relational.tables import metadata

REFERENCE = Path(__file__).resolve().parent.parent / "docs" / "reference"
NOTE = "<!-- Written by scripts/reference.py; a test compares it with the code. -->"

PURPOSE = {
    "applied_operations": "What `apply_once` has applied, so that it is not applied again.",
    "attempts": "Messages under way, noted before their handler starts, so that a crash leaves a trace.",
    "breakers": "What handlers need and whether it is down, shared by all processes; changed by its version.",
    "claims": "Leased claims of handlers that run without a transaction.",
    "consumers": "The consumers that each service has had, so that none is forgotten with work pending.",
    "dead_letter_edits": "The bodies that edited dead letters had before; the first one of each as it was delivered.",
    "dead_letter_groups": "Causes of failures per consumer: how many letters came and are dead, what was decided.",
    "dead_letters": "What could not be handled: raw bytes, headers, attempts, failures; once per consumer and message.",
    "early": "Numbered messages that came before one of a lower number, and wait for it, per consumer.",
    "flow_instances": "Where each process of a flow stands, what of it did not come, and what was told of that.",
    "flow_messages": "The events of flows that were seen: envelopes without bodies, by the process they are part of.",
    "flow_participants": "Who hears what and publishes what: the consumers of every service that has run here.",
    "held": "Messages that wait in a consumer's database: retries, what is behind them, replays.",
    "saga_definitions": "The steps of each version of a saga as it was last run, to see a change that would break it.",
    "saga_instances": "Sagas: state, journal of their steps, and when each is to be looked at again.",
    "saga_locks": "Semantic locks that sagas hold on things of the business until they end.",
    "saga_participations": "What a service was asked to do and undo for sagas, whether it still may, what it answered.",
    "waits": "A message at the head of a hold and each cause that it waits for.",
    "holds": "The keys that wait, per consumer; `blocked` ones wait for somebody's decision about a dead letter.",
    "inbox": "The ids of processed messages, per consumer.",
    "key_numbers": "How far the numbers of numbered destinations have come, by key, and in which epoch.",
    "key_positions": "How far each consumer that goes by numbers has come, by channel and key.",
    "leases": "Slots of work, who owns each, and under which fencing token.",
    "members": "The live processes of each scope of leases.",
    "operator_acts": "What operators did: who, when, what, to which, and why; written in the transaction that did it.",
    "outbox": "Records to be published, in position order. A relay removes what was published.",
    "outbox_checkpoint": "How far a log tailing relay has come in PostgreSQL's log.",
    "outbox_cursor_history": "Where the cursor stood at earlier instants: when the records behind it were published.",
    "outbox_cursor": "How far a sequence relay has come: two snapshots and a position.",
    "outbox_held": "Records put aside: `parked`, `held` behind a parked one, `released` to go on, `skipped` for good.",
    "outbox_holds": "Keys of the outbox that are held by a record in `outbox_held`.",
    "outbox_published": "Published records that are kept for a while, to be published again if the broker lost them.",
    "outbox_scheduled": "Delayed records; they enter the outbox, and take their position, when they are due.",
    "outside_calls": "Calls of `call_once`: `begun` ones may be in doubt, `answered` ones have their answer.",
    "queue": "Messages on their way to consumers, where the database is the broker.",
    "replay_items": "The frozen set of letters of each replay run, and what became of each.",
    "replay_runs": "Replays of many letters: their terms, and whether they are open.",
    "schema_version": "The migrations that were applied.",
    "skipped_numbers": "Numbers that a consumer went on without, who decided and why.",
    "subscriptions": "Which consumers listen to which channels.",
}


def schema_page() -> str:
    """Return the page of the tables."""
    parts = [
        "# Database schema",
        NOTE,
        f"Version {CURRENT_VERSION}. Instants are microseconds since 1970 in UTC, by the database's own clock. Names, "
        "ids and keys are compared byte by byte. `pillarbox migrate` creates the tables; many may run it at once.",
    ]
    for table in metadata.sorted_tables:
        parts += [f"## `{table.name}`", PURPOSE[table.name.removeprefix("pillarbox_")], _columns(table)]
        if further := _further(table):
            parts.append(further)
    return "\n\n".join(parts) + "\n"


def _columns(table: Table) -> str:
    rows = ["| column | PostgreSQL | SQLite | may be null |", "|---|---|---|---|"]
    for column in table.columns:
        kinds = [_plain(column.type.compile(dialect)) for dialect in (postgresql.dialect(), sqlite.dialect())]
        name = f"**{column.name}**" if column.primary_key else column.name
        rows.append(f"| {name} | {kinds[0]} | {kinds[1]} | {'yes' if column.nullable else ''} |")
    return "\n".join(rows)


def _plain(kind: str) -> str:
    return kind.partition(" COLLATE")[0].lower()


def _further(table: Table) -> str:
    lines: list[str] = []
    for constraint in sorted(table.constraints, key=lambda one: str(one.name)):
        if isinstance(constraint, CheckConstraint):
            lines.append(f"- check: `{constraint.sqltext}`")
        elif isinstance(constraint, UniqueConstraint):
            lines.append(f"- unique: {', '.join(column.name for column in constraint.columns)}")
    for index in sorted(table.indexes, key=lambda one: str(one.name)):
        where = index.dialect_options["postgresql"]["where"]
        part = "" if where is None else f" (on PostgreSQL only where `{where}`)"
        lines.append(f"- index `{index.name}`: {', '.join(column.name for column in index.columns)}{part}")
    return "\n".join(lines)


def events_page() -> str:
    """Return the page of the events."""
    parts = [
        "# Events",
        NOTE,
        "What `box.observe(observer)` tells: one frozen dataclass of `pillarbox.observe` for each thing that happens, "
        "after what it tells of is durable. An event may be missing when a process ends in between. Bodies and keys "
        "of messages never appear.",
    ]
    for kind in get_args(Event):
        hints = get_type_hints(kind)
        rows = ["| field | type |", "|---|---|"]
        rows += [f"| {field.name} | `{_type_name(hints[field.name])}` |" for field in dataclasses.fields(kind)]
        parts += [f"## {kind.__name__}", re.sub(r"``(.*?)``", r"`\1`", inspect.cleandoc(kind.__doc__)), "\n".join(rows)]
    return "\n\n".join(parts) + "\n"


def _type_name(hint: object) -> str:
    text = getattr(hint, "__name__", "") if isinstance(hint, type) else str(hint)
    return text.replace("datetime.", "").replace(" | ", " or ")


def brokers_page() -> str:
    """Return the page of what each broker's adapter declares."""
    declared = {name: found for name in _brokers() if (found := _declared_by(name)) is not None}
    names = [field.name for field in dataclasses.fields(BrokerCapabilities)]
    rows = [f"| | {' | '.join(f'`{name}`' for name in names)} |", "|---|" + "---|" * len(names)]
    for broker, capabilities in declared.items():
        values = " | ".join(_word(getattr(capabilities, name)) for name in names)
        rows.append(f"| {broker} | {values} |")
    meanings = re.findall(r"^    (\w+): (.*)$", inspect.cleandoc(BrokerCapabilities.__doc__ or ""), re.MULTILINE)
    parts = [
        "# Capabilities of brokers",
        NOTE,
        "What each adapter declares. `pillarbox.testing.contracts` has rules for each declaration, and tests run them "
        "on real servers; a rule about what is not declared is skipped with that reason.",
        "\n".join(rows),
        "\n".join(f"- `{name}`: {meaning.replace('``', '`')}" for name, meaning in meanings),
    ]
    return "\n\n".join(parts) + "\n"


def _brokers() -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules(pillarbox.brokers.__path__))


def _declared_by(broker: str) -> BrokerCapabilities | None:
    for module in ("sender", "broker"):
        try:
            found = importlib.import_module(f"pillarbox.brokers.{broker}.{module}")
        except ModuleNotFoundError:
            continue
        if isinstance(declared := getattr(found, "CAPABILITIES", None), BrokerCapabilities):
            return declared
    return None


def _word(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else ""
    return "" if value is None else f"{value:,}"


PAGES = {"schema.md": schema_page, "events.md": events_page, "brokers.md": brokers_page}


def main() -> int:
    """Write every page."""
    for name, page in PAGES.items():
        (REFERENCE / name).write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
