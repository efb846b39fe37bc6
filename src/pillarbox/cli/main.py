"""The command ``pillarbox`` and the list of its commands."""

from __future__ import annotations

import click

from pillarbox.cli.calls import calls
from pillarbox.cli.consumers import consumers
from pillarbox.cli.dead_letter_groups import group, groups, stats
from pillarbox.cli.dead_letters import dead_letters
from pillarbox.cli.debezium import debezium_config
from pillarbox.cli.demo import demo
from pillarbox.cli.doctor import doctor
from pillarbox.cli.errors import Commands
from pillarbox.cli.explain import explain
from pillarbox.cli.flow import flow
from pillarbox.cli.gaps import gaps
from pillarbox.cli.health import health
from pillarbox.cli.held import held
from pillarbox.cli.inbox import inbox
from pillarbox.cli.kept import purge, republish
from pillarbox.cli.migrate import migrate
from pillarbox.cli.outbox import new_epoch, outbox
from pillarbox.cli.replay_runs import replay_all, runs
from pillarbox.cli.run import run
from pillarbox.cli.sagas import saga


@click.group(cls=Commands, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="pillarbox", message="%(prog)s %(version)s")
@click.pass_context
def commands(context: click.Context) -> None:
    """The reliability layer between a service's database and its message broker."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


for command in (
    demo,
    run,
    migrate,
    health,
    doctor,
    explain,
    outbox,
    inbox,
    consumers,
    held,
    gaps,
    dead_letters,
    saga,
    calls,
):
    commands.add_command(command)
for command in (flow,):
    commands.add_command(command)
for command in (purge, republish, new_epoch, debezium_config):
    outbox.add_command(command)
for command in (stats, groups, group, replay_all, runs):
    dead_letters.add_command(command)


def main() -> None:
    """Run the command line; the entry point of the script and of ``python -m pillarbox``."""
    commands(prog_name="pillarbox")
