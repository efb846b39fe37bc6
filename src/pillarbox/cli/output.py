"""How commands print: a JSON value for programs, lines and tables for people."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from datetime import datetime, timedelta
from typing import Any, cast

import click
import msgspec
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from pillarbox.telemetry import masked

WIDE = 400
"""Columns where no terminal says how many it has; a reader of a pipe wants whole ids."""

AS_JSON = "pillarbox.as_json"


def wants_json() -> bool:
    """Tell whether the running command was given ``--json``."""
    context = click.get_current_context(silent=True)
    return context is not None and bool(context.find_root().meta.get(AS_JSON))


def print_json(value: object) -> None:
    """Print ``value`` as one JSON value, its passwords masked."""
    click.echo(json.dumps(plain(value), ensure_ascii=False, indent=2))


def print_line(text: str) -> None:
    """Print a line for people."""
    click.echo(_printable(masked(text)))


def print_table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table for people; values are printed as they are, never as markup."""
    terminal = sys.stdout.isatty()
    console = Console(
        file=sys.stdout,
        markup=False,
        emoji=False,
        highlight=False,
        soft_wrap=not terminal,
        width=None if terminal else WIDE,
    )
    table = Table(*headings, box=SIMPLE_HEAD, pad_edge=False)
    for column in table.columns:
        column.overflow = "fold"
    for row in rows:
        table.add_row(*(_cell(value) for value in row))
    console.print(table)


def print_facts(facts: Mapping[str, object]) -> None:
    """Print names and values below each other."""
    width = max(map(len, facts), default=0)
    for name, value in facts.items():
        click.echo(f"{name.replace('_', ' '):{width}}  {_cell(value)}")


def plain(value: object) -> Any:
    """Return ``value`` in JSON's types: dataclasses as objects, durations in seconds under a name ending in ``_s``."""
    if isinstance(value, str):
        return masked(str(value))
    if is_dataclass(value) and not isinstance(value, type):
        return plain({field.name: getattr(value, field.name) for field in fields(value)})
    if isinstance(value, msgspec.Struct):
        return plain(msgspec.structs.asdict(value))
    if isinstance(value, Mapping):
        items = cast("Mapping[object, object]", value)
        return dict(_named(str(name), item) for name, item in items.items())
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in cast("Sequence[object]", value)]
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    return value


def _named(name: str, value: object) -> tuple[str, Any]:
    in_seconds = isinstance(value, timedelta) or (value is None and name.endswith("_for"))
    return (f"{name}_s" if in_seconds else name), plain(value)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, datetime):
        return value.isoformat(sep=" ", timespec="seconds")
    if isinstance(value, timedelta):
        return f"{value.total_seconds():.1f} s"
    if isinstance(value, (tuple, list)):
        return " ".join(map(_cell, cast("Sequence[object]", value)))
    return _printable(masked(str(value)).replace("\n", "\\n").replace("\t", "\\t"))  # a cell looks like no further line


def _printable(text: str) -> str:
    """Return ``text`` without control characters, which could drive the reader's terminal."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text)
