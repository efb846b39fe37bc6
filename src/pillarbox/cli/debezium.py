"""``pillarbox outbox debezium-config``: what Debezium needs to publish the outbox in our stead."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

import click

from pillarbox.cli.durations import duration
from pillarbox.cli.output import print_json, wants_json
from pillarbox.cli.places import find_place, json_option
from pillarbox.errors import ConfigurationError


@click.command(name="debezium-config")
@click.option("--app", metavar="MODULE:BOX", help="The box of a program, as in shop.app:box.")
@click.option("--store", metavar="URL", help="A store; left out: PILLARBOX_STORE.")
@click.option("--name", default="pillarbox", show_default=True, help="Of the connector.")
@click.option("--slot", default="pillarbox_debezium", show_default=True, help="Replication slot and publication.")
@click.option("--schema", default="public", show_default=True, help="Where the outbox is.")
@click.option("--sql", is_flag=True, help="Print the SQL to run before, and now and then; connects to nothing.")
@click.option("--keep", type=duration, default="7d", show_default=True, help="How long the SQL keeps published rows.")
@json_option
def debezium_config(app: str | None, store: str | None, sql: bool, keep: timedelta, **names: str) -> None:  # noqa: FBT001  # click's signature
    """Print a connector's configuration for Debezium's outbox event router.

    As a .properties file, or with --json as a body for Kafka Connect's REST API. Run no relay beside it.
    """
    from pillarbox.stores.postgresql import debezium

    url = find_place(app, store).store.engine.url
    if url.get_backend_name() != "postgresql":
        raise ConfigurationError("Debezium reads the outbox of a PostgreSQL store only; name one")
    called = debezium.DebeziumNames(connector=names["name"], slot=names["slot"], schema=names["schema"])
    config = debezium.connector_config(url, called)
    scripts = {
        "once, before the connector is started": debezium.preparation_sql(called),
        "now and then": debezium.purge_sql(called, keep),
    }
    if wants_json():
        print_json(scripts if sql else {"name": called.connector, "config": config})
    elif sql:
        click.echo("\n".join(f"-- {when}\n{text}" for when, text in scripts.items()), nl=False)
    else:
        click.echo(_properties({"name": called.connector, **config}), nl=False)


def _properties(config: Mapping[str, str]) -> str:
    """Spell a Java properties file, in which a backslash escapes."""
    return "".join(f"{name}={value.replace(chr(92), chr(92) * 2)}\n" for name, value in config.items())
