"""The history checker flags every bad history and passes the good ones.

Histories are written short: ``a2`` is number 2 of key a; ``-5`` has no key; ``bill:a2`` is an effect of a2 at bill.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.history import DoubleEffect, Effect, Event, Hole, Inversion, Verdict, check


def event(word: str) -> Event:
    return Event(word, None if word[0] == "-" else word[0], int(word[1:]))


def events(words: str) -> list[Event]:
    return [event(word) for word in words.split()]


def effects(words: str) -> list[Effect]:
    """Read effects in the order in which they were committed."""
    pairs = [word.split(":") for word in words.split()]
    return [Effect(consumer, id_, event(id_).key, order) for order, (consumer, id_) in enumerate(pairs)]


@dataclass(frozen=True)
class History:
    """A history in short form."""

    committed: str
    log: str | None = None
    effects: str = ""
    consumers: str = ""
    parked: str = ""
    dead: str = ""

    def judge(self) -> Verdict:
        return check(
            events(self.committed),
            None if self.log is None else events(self.log),
            effects(self.effects),
            consumers=self.consumers.split(),
            parked=self.parked.split(),
            dead=[(consumer, id_) for consumer, _, id_ in (word.partition(":") for word in self.dead.split())],
        )


GOOD = {
    "nothing happened": History("", ""),
    "all delivered in order, keys interleaved": History("a1 a2 b1 b2 -1", "b1 a1 -1 b2 a2"),
    "copies repeated after a crash, the window from its start": History("a1 a2 a3", "a1 a2 a1 a2 a3 a3"),
    "a late copy of an early event": History("a1 a2", "a1 a2 a1"),
    "events without a key in any order": History("-1 -2 -3", "-3 -1 -2"),
    "numbers of a key with gaps from rollbacks": History("a2 a5 a9", "a2 a5 a9"),
    "a parked event is accounted for": History("a1 b1 b2", "a1 b2", parked="b1"),
    "every consumer applied every event once": History(
        "a1 a2", "a1 a2", "bill:a1 ship:a1 ship:a2 bill:a2", consumers="bill ship"
    ),
    "a dead letter in the place of an effect": History("a1 b1", "a1 b1", "bill:b1", consumers="bill", dead="bill:a1"),
    "no broker recorded, effects alone": History("a1 a2", None, "bill:a1 bill:a2", consumers="bill"),
}

BAD = {
    "an event lost in the middle of its key": (History("a1 a2 a3", "a1 a3"), {"lost", "holes"}),
    "the first event of a key lost": (History("a1 a2", "a2"), {"lost", "holes"}),
    "the last event of a key lost": (History("a1 a2", "a1"), {"lost"}),
    "a whole key lost": (History("a1 b1", "a1"), {"lost"}),
    "an event without a key lost": (History("-1 -2", "-2"), {"lost"}),
    "everything lost": (History("a1 -1", ""), {"lost"}),
    "an event of a rolled-back transaction": (History("a1", "a1 a2"), {"ghosts"}),
    "a ghost alone": (History("", "-7"), {"ghosts"}),
    "neighbours swapped": (History("a1 a2", "a2 a1"), {"inversions"}),
    "an event late by many, other keys between": (History("a1 a2 b1 b2", "a2 b1 b2 a1"), {"inversions"}),
    "a whole key backwards": (History("a1 a2 a3", "a3 a2 a1"), {"inversions"}),
    "an inversion hidden by a later repeat in order": (History("a1 a2", "a2 a1 a2"), {"inversions"}),
    "an order right in numbers that were given out wrong": (History("a1 a10 a9", "a1 a10 a9"), {"inversions"}),
    "a hole before a parked event's successor": (History("a1 a2 a3", "a3", parked="a2"), {"lost", "holes"}),
    "lost and another inverted": (History("a1 a2 a3 a4", "a1 a4 a3"), {"lost", "holes", "inversions"}),
    "applied twice": (History("a1", "a1 a1", "bill:a1 bill:a1"), {"double_effects"}),
    "applied twice by one of two consumers": (
        History("a1", "a1", "bill:a1 ship:a1 ship:a1", consumers="bill ship"),
        {"double_effects"},
    ),
    "never applied though delivered": (History("a1 a2", "a1 a2", "bill:a1", consumers="bill"), {"missing_effects"}),
    "applied by one of two consumers": (
        History("a1", "a1", "bill:a1", consumers="bill ship"),
        {"missing_effects"},
    ),
    "lost, and so never applied": (
        History("a1 b1", "b1", "bill:b1", consumers="bill"),
        {"lost", "missing_effects"},
    ),
    "an effect of what never committed": (History("a1", "a1", "bill:a1 bill:a2"), {"ghost_effects"}),
    "effects of a key out of order": (History("a1 a2", "a1 a2", "bill:a2 bill:a1"), {"effect_inversions"}),
    "effects out of order at one consumer only": (
        History("a1 a2", "a1 a2", "bill:a1 ship:a2 bill:a2 ship:a1"),
        {"effect_inversions"},
    ),
    "a retried event overtaken by its successor, then applied again": (
        History("a1 a2", "a1 a2", "bill:a2 bill:a1 bill:a2"),
        {"double_effects", "effect_inversions"},
    ),
    "applied and dead at once": (
        History("a1", "a1", "bill:a1", consumers="bill", dead="bill:a1"),
        {"dead_with_effect"},
    ),
    "dead at the wrong consumer": (
        History("a1", "a1", "ship:a1", consumers="bill ship", dead="post:a1"),
        {"missing_effects"},
    ),
}


@pytest.mark.parametrize("history", GOOD.values(), ids=GOOD.keys())
def test_a_good_history_passes(history: History) -> None:
    history.judge().assert_sound()


@pytest.mark.parametrize(("history", "kinds"), BAD.values(), ids=BAD.keys())
def test_a_bad_history_is_flagged_for_its_fault_alone(history: History, kinds: set[str]) -> None:
    verdict = history.judge()

    assert set(verdict.faults()) == kinds
    with pytest.raises(AssertionError, match=min(kinds)):
        verdict.assert_sound()


def test_duplicates_are_counted_and_bounded() -> None:
    verdict = History("a1 a2", "a1 a2 a1 a2 a2").judge()

    assert verdict.duplicates == 3
    verdict.assert_sound(max_duplicates=3)
    with pytest.raises(AssertionError, match="duplicates: 3, allowed 2"):
        verdict.assert_sound(max_duplicates=2)


def test_a_ghosts_copies_are_no_duplicates() -> None:
    verdict = History("a1", "a1 b1 b1").judge()

    assert verdict.duplicates == 0
    assert len(verdict.ghosts) == 2


def test_the_place_of_a_loss_is_told() -> None:
    verdict = History("a1 a2 a3 a4 a5 b1", "a2 a4").judge()

    assert {lost.event.id: lost.place for lost in verdict.lost} == {
        "a1": "head",
        "a3": "middle",
        "a5": "tail",
        "b1": "all",
    }


def test_a_hole_names_the_first_missing_event_and_what_followed_it() -> None:
    verdict = History("a1 a2 a3 a4", "a1 a4").judge()

    assert verdict.holes == (Hole(event("a2"), followed_by=event("a4")),)


def test_the_shortest_witness_of_an_inversion_comes_first() -> None:
    verdict = History("a1 a2 a3 b1 b2", "a3 b2 b1 a1 a2").judge()

    assert verdict.inversions == (
        Inversion(event("b2"), 1, event("b1"), 2),
        Inversion(event("a3"), 0, event("a1"), 3),
        Inversion(event("a3"), 0, event("a2"), 4),
    )


def test_an_effect_inversion_names_its_consumer() -> None:
    verdict = History("a1 a2", "a1 a2", "bill:a1 ship:a2 bill:a2 ship:a1").judge()

    assert verdict.effect_inversions == (Inversion(event("a2"), 1, event("a1"), 3, "ship"),)


def test_a_double_effect_is_counted() -> None:
    verdict = History("a1", "a1", "bill:a1 bill:a1 bill:a1").judge()

    assert verdict.double_effects == (DoubleEffect("bill", "a1", 3),)


@pytest.mark.parametrize("copy", [Event("a1", "b", 1), Event("a1", "a", 2), Event("a1", None, 1)])
def test_a_copy_with_another_key_or_number_is_flagged(copy: Event) -> None:
    verdict = check(events("a1"), [copy])

    assert verdict.altered == (copy,)


def test_effects_are_ordered_by_their_order_not_by_their_place_in_the_input() -> None:
    verdict = check(events("a1 a2"), None, reversed(effects("bill:a1 bill:a2")))

    verdict.assert_sound()


@pytest.mark.parametrize(
    "committed", [[Event("x", "a", 1), Event("x", "a", 2)], [Event("x", "a", 1), Event("y", "a", 1)]]
)
def test_a_record_of_commits_that_contradicts_itself_is_refused(committed: list[Event]) -> None:
    with pytest.raises(ValueError, match="two committed events"):
        check(committed)


@given(st.lists(st.sampled_from([f"{key}{seq}" for key in "ab-" for seq in range(1, 5)])))
def test_any_history_is_judged_as_the_definitions_say(copies: list[str]) -> None:
    committed = [f"{key}{seq}" for key in "ab-" for seq in (1, 2, 3)]

    verdict = check(events(" ".join(committed)), events(" ".join(copies)))

    first = [copy for at, copy in enumerate(copies) if copy not in copies[:at] and copy in committed]
    assert {lost.event.id for lost in verdict.lost} == set(committed) - set(first)
    assert [ghost.id for ghost in verdict.ghosts] == [copy for copy in copies if copy not in committed]
    assert verdict.duplicates == len([copy for copy in copies if copy in committed]) - len(first)
    assert {one.late.id for one in verdict.inversions} == {
        late
        for at, late in enumerate(first)
        if late[0] != "-" and any(early[0] == late[0] and early > late for early in first[:at])
    }
    assert {hole.missing.id for hole in verdict.holes} == {
        holes[0]
        for key in "ab"
        if (holes := [f"{key}{seq}" for seq in (1, 2, 3) if f"{key}{seq}" not in first])
        and any(f"{key}{seq}" in first for seq in range(int(holes[0][1]) + 1, 4))
    }


def test_a_long_history_is_judged_quickly() -> None:
    committed = [Event(str(number), f"k{number % 30}", number) for number in range(50_000)]

    verdict = check(committed, [*committed, *reversed(committed)], consumers=())

    assert verdict.duplicates == 50_000
    verdict.assert_sound(max_duplicates=50_000)
