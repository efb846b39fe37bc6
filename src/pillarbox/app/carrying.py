"""What a box checks of the messages that it hears and sends, before anything starts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pillarbox.consumer import Consumer
from pillarbox.errors import ConfigurationError, InvalidSetupError
from pillarbox.flow.reading import messages_in
from pillarbox.message import Registry
from pillarbox.saga.catalogue import Catalogue
from pillarbox.saga.definition import Kind
from pillarbox.serialization import Codec


def check_carried(registry: Registry, codec: Codec, consumers: Sequence[Consumer], catalogue: Catalogue) -> None:
    """Make sure that ``codec`` carries what is registered, and what ``consumers`` and sagas say that they send.

    Raises:
        InvalidSetupError: lists everything that it does not carry, and the upcasters that are missing.
    """
    problems: list[ConfigurationError] = []
    known = [declared.python_type for declared in registry.types()]
    for where, kind in [*(("", kind) for kind in known), *_sent(consumers, catalogue)]:
        if where and kind in known:
            continue
        try:
            codec.prepare(kind)
        except ConfigurationError as error:
            problems.append(ConfigurationError(f"{where}{error}") if where else error)
    if missing := registry.missing_upcasters():
        chains = ", ".join(f"{name} version {version}" for name, version in missing)
        problems.append(ConfigurationError(f"upcasters are missing for {chains}; give them to register()"))
    if problems:
        raise InvalidSetupError(problems=problems)


def _sent(consumers: Sequence[Consumer], catalogue: Catalogue) -> Iterator[tuple[str, type[object]]]:
    """Return the message classes that are returned or named in ``publishes=``, and where."""
    for consumer in consumers:
        for kind in dict.fromkeys([*messages_in(consumer.signature.returns), *consumer.options.publishes]):
            yield f"consumer {consumer.identity} sends what cannot be sent: ", kind
    for definition in catalogue.definitions:
        for step in (step for stage in definition.stages for step in stage):
            for act in (step.do, step.undo):
                if act is not None and act.kind is Kind.REQUEST:
                    for kind in messages_in(act.signature.returns):
                        yield f"step {step.name!r} of {definition.saga} sends what cannot be sent: ", kind
