"""Where a command works: the box of a program, or a store by its URL."""

from __future__ import annotations

import asyncio
import importlib
import os
import sys
import traceback
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

import click

from pillarbox.app import Pillarbox
from pillarbox.app.controlling import control_of
from pillarbox.app.places import STORE_VARIABLE, store_at
from pillarbox.app.settings import DEFAULTS
from pillarbox.channel import Broker
from pillarbox.cli.output import AS_JSON
from pillarbox.control import Control
from pillarbox.errors import ConfigurationError
from pillarbox.idempotency import InboxSettings
from pillarbox.relational import RelationalStore


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A store, and the box that uses it where a program was named."""

    store: RelationalStore
    box: Pillarbox | None = None

    @property
    def url(self) -> str:
        """The store's URL without its password."""
        return self.store.engine.url.render_as_string(hide_password=True)

    @property
    def inbox(self) -> InboxSettings:
        """How the box keeps its inboxes; for a store by its URL alone, what boxes do unless told otherwise."""
        return InboxSettings() if self.box is None else self.box.settings.inbox

    @property
    def max_held(self) -> int | None:
        """How many messages of a held key the box puts aside; for a store by its URL alone, the default."""
        return DEFAULTS.max_held if self.box is None else self.box.settings.max_held

    @property
    def broker(self) -> Broker | None:
        """The broker of the box; a store by its URL alone has none."""
        return None if self.box is None else self.box.broker

    @property
    def channels(self) -> Iterable[str]:
        """The channels that the box sends to or receives from.

        Raises:
            InvalidSetupError: something is wrong with its declarations.
        """
        if self.box is None:
            return ()
        received = [channel for consumer in self.box.consumers() for channel in consumer.channels]
        routed = [output for route in self.box.routes for output in route.outputs]
        return {*received, *routed, *(kind.destination for kind in self.box.registry.types())}

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[Control]:
        """Lend control over the store, whose tables must be there.

        Raises:
            SchemaVersionError: the tables are missing or of another release.
            ConfigurationError: the database file does not exist; it is not created.
        """
        async with self.lend():
            await self.store.check_schema()
            yield control_of(self.store, self.inbox, None if self.box is None else self.box.check_body)

    @asynccontextmanager
    async def lend(self) -> AsyncGenerator[None]:
        """Lend the store, whose tables need not be there, and close it in the end.

        Raises:
            ConfigurationError: the database file does not exist; it is not created.
        """
        url = self.store.engine.url
        in_memory = "memdb" in url.query.values()
        if in_memory and self.box is None:
            raise ConfigurationError("a store in memory is seen by its own process only; name a database")
        if url.get_backend_name() == "sqlite" and not in_memory:
            _check_file(url.database or "")
        try:
            if in_memory:
                await self.store.migrate()
            yield
        finally:
            await self.store.close()
            if self.broker is not None:
                await self.broker.close()


def _check_file(name: str) -> None:
    if not name.startswith("file:") and not Path(name).exists():
        raise ConfigurationError(f"there is no database file {name!r}; create it with: pillarbox migrate")


def find_place(app: str | None, store: str | None) -> Place:
    """Return the place that the options name, else the one in ``PILLARBOX_STORE``.

    Raises:
        ConfigurationError: the program or the store is not as named.
        UsageError: none is named, or two are.
    """
    if app is not None and store is not None:
        raise click.UsageError("give --app or --store, not both")
    if app is not None:
        box = load_box(app)
        return Place(store=box.store, box=box)
    if store is None and STORE_VARIABLE not in os.environ:
        raise click.UsageError(f"name a place: --app module:box, --store URL, or {STORE_VARIABLE} in the environment")
    return Place(store=store_at(store))


def load_box(target: str) -> Pillarbox:
    """Import the box that ``module:attribute`` names; ``:attribute`` left out means ``:box``.

    The working directory comes first on the path, as with ``python -m``.

    Raises:
        ConfigurationError: it cannot be imported, or is no box.
    """
    module_name, _, attribute = target.partition(":")
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        found: object = importlib.import_module(module_name)
    except ConfigurationError:
        raise
    except Exception as error:
        raise ConfigurationError(f"{module_name!r} cannot be imported: {_where(error)}") from error
    try:
        for name in (attribute or "box").split("."):
            found = getattr(found, name)
    except AttributeError as error:
        raise ConfigurationError(f"{target!r} cannot be found: {error}") from error
    if not isinstance(found, Pillarbox):
        raise ConfigurationError(f"{target!r} is a {type(found).__name__}, not a Pillarbox; name it as module:box")
    return found


def _where(error: Exception) -> str:
    last = traceback.extract_tb(error.__traceback__)[-1]
    place = "" if "importlib" in last.filename else f" ({last.filename}, line {last.lineno})"
    return f"{type(error).__name__}: {error}{place}"


def json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command ``--json``."""

    def remember(context: click.Context, _: click.Parameter, value: object) -> None:
        if value:
            context.find_root().meta[AS_JSON] = True

    option = click.option(
        "--json", is_flag=True, is_eager=True, expose_value=False, callback=remember, help="Print JSON instead."
    )
    return option(command)


def at_a_place(work: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., Any]:
    """Make a command of ``work``: with the options that name its place, and ``--json``."""

    @click.option("--app", metavar="MODULE:BOX", help="The box of a program, as in shop.app:box.")
    @click.option("--store", metavar="URL", help=f"A store; left out: {STORE_VARIABLE}.")
    @json_option
    @wraps(work)
    def command(app: str | None, store: str | None, **options: Any) -> None:
        asyncio.run(work(find_place(app, store), **options))

    return command
