"""What consumers that go by numbers have besides the others: a gate, and a watch over their gaps."""

from __future__ import annotations

from pillarbox.clock import Clock
from pillarbox.consumer import Consumer
from pillarbox.consumer.by_sequence import SequenceGate
from pillarbox.consumer.gap_watch import GapWatch, Lines
from pillarbox.consumer.gate import OPEN, Gate
from pillarbox.consumer.surroundings import Surroundings
from pillarbox.errors import ConfigurationError
from pillarbox.ordering import BySequence, Kept
from pillarbox.relational import RelationalStore
from pillarbox.relational.kept import StoreKept
from pillarbox.relay import RelaySettings


def gate_of(consumer: Consumer, store: RelationalStore, clock: Clock) -> Gate:
    """Return the gate of ``consumer``: open, unless it goes by numbers."""
    rule = consumer.options.ordering
    if not isinstance(rule, BySequence):
        return OPEN
    return SequenceGate(
        consumer.identity,
        rule=rule,
        positions=store.positions,
        skipped=store.skipped,
        is_handled=lambda item: consumer.takes(item.message),
        marks_admitted=consumer.mode == "outside",
        now=clock.now,
    )


def watches_of(
    consumer: Consumer, store: RelationalStore, relay: RelaySettings, around: Surroundings
) -> tuple[GapWatch, ...]:
    """Return the watch over the gaps of ``consumer``, if it goes by numbers.

    Raises:
        ConfigurationError: it is to fetch what its own store does not keep for long enough.
    """
    rule = consumer.options.ordering
    if not isinstance(rule, BySequence):
        return ()
    kept = _kept(consumer, rule, store, relay) if rule.gap.then == "fetch" else None
    return (GapWatch(consumer.identity, lines=lines_of(store), rule=rule, kept=kept, around=around),)


def lines_of(store: RelationalStore) -> Lines:
    """Return the ports of ``store`` through which gaps are closed."""
    return Lines(positions=store.positions, gaps=store.gaps, skipped=store.skipped)


def kept_at(place: str) -> Kept:
    """Return what the producers of the store at the URL ``place`` have published.

    Raises:
        ConfigurationError: there is no store of that kind.
    """
    from pillarbox.app.places import store_at

    other = store_at(place)
    return StoreKept(other, let_go=other.let_go)


def _kept(consumer: Consumer, rule: BySequence, store: RelationalStore, relay: RelaySettings) -> Kept:
    place = rule.gap.fetch_from
    if isinstance(place, str):
        return kept_at(place)
    if place is not None:
        return place
    if relay.keep is None or relay.keep <= rule.gap.wait:
        kept = "nothing that was published" if relay.keep is None else f"what was published only for {relay.keep}"
        raise ConfigurationError(
            f"{consumer.identity} fetches what is missing after {rule.gap.wait}, and the relay keeps {kept}: set "
            "RelaySettings(keep=…) to more than that, or name the producer's store in GapPolicy(fetch_from=…)"
        )
    return StoreKept(store)
