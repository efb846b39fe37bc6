"""The circuit as a state machine: whatever processes do, in whatever order, by compare-and-set."""

from __future__ import annotations

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pillarbox.retry import Circuit, CircuitBreaker, CircuitState, Streak

BREAKER = CircuitBreaker(failures=3)
LEASE = timedelta(seconds=30)
seconds = st.integers(0, 60).map(lambda number: timedelta(seconds=number))


class CircuitMachine(RuleBasedStateMachine):
    """Processes that read a circuit at some time, and write what follows from it at another."""

    @initialize()
    def begin(self) -> None:
        self.shared = Circuit()
        self.read: dict[str, Circuit] = {}
        self.probing: dict[str, Circuit] = {}
        self.allowed = 0

    def write(self, circuit: Circuit, expected: int) -> bool:
        if self.shared.version != expected:
            return False
        self.shared = circuit
        return True

    @rule(who=st.sampled_from("abc"))
    def look(self, who: str) -> None:
        self.read[who] = self.shared

    @rule(passed=seconds)
    def wait(self, passed: timedelta) -> None:
        self.shared = self.shared.later(passed)
        self.read = {who: circuit.later(passed) for who, circuit in self.read.items()}

    @rule(who=st.sampled_from("abc"), dice=st.floats(0, 0.999))
    def trip(self, who: str, dice: float) -> None:
        seen = self.read.get(who, Circuit())
        if seen.is_closed:
            self.write(seen.opened(BREAKER.pause(1, dice=dice), reason="x"), seen.version)

    @rule(who=st.sampled_from("abc"))
    def take(self, who: str) -> None:
        seen = self.read.get(who, Circuit())
        if seen.may_be_probed:
            probed = seen.probed(who, lease=LEASE)
            if self.write(probed, seen.version):
                self.probing[who] = probed

    @precondition(lambda self: self.probing)
    @rule(data=st.data(), answer=st.sampled_from([True, False, None]))
    def settle(self, data: st.DataObject, answer: bool | None) -> None:
        who = data.draw(st.sampled_from(sorted(self.probing)))
        circuit = self.probing.pop(who)
        still_mine = self.shared.probe == who and self.shared.version == circuit.version
        if answer is None:
            after = circuit.unanswered()
        else:
            after = circuit.closed() if answer else circuit.opened(BREAKER.pause(2, dice=0), reason="x")

        assert self.write(after, circuit.version) == still_mine, "whoever lost the probe changes nothing"

    @invariant()
    def only_a_half_open_circuit_has_a_prober(self) -> None:
        assert (self.shared.probe is not None) == (self.shared.state is CircuitState.HALF_OPEN)

    @invariant()
    def a_closed_circuit_remembers_nothing(self) -> None:
        if self.shared.is_closed:
            assert self.shared == Circuit(version=self.shared.version)

    @invariant()
    def it_is_never_stuck(self) -> None:
        assert self.shared.is_closed or self.shared.later(timedelta(days=1)).may_be_probed


TestCircuit = CircuitMachine.TestCase


@given(openings=st.integers(1, 10_000), dice=st.floats(0, 0.999), asked=st.none() | seconds)
def test_pauses_grow_to_their_cap_and_are_not_shorter_than_asked(
    openings: int, dice: float, asked: timedelta | None
) -> None:
    pause = BREAKER.pause(openings, dice=dice, asked=asked)

    assert BREAKER.open_for <= pause <= max(BREAKER.longest * 1.2, asked or timedelta(0))
    assert pause >= (asked or timedelta(0))
    assert BREAKER.pause(openings + 1, dice=0) >= BREAKER.pause(openings, dice=0)


@given(steps=st.lists(st.floats(0, 20), min_size=1, max_size=20))
def test_a_streak_opens_when_so_many_failures_were_within_that_time(steps: list[float]) -> None:
    within = timedelta(seconds=30)
    streak, at, times = Streak(), 0.0, list[float]()
    for step in steps:
        at += step
        times.append(at)
        streak = streak.failed(at, failures=3)

        expected = len(times) >= 3 and times[-1] - times[-3] <= 30
        assert streak.opens(failures=3, within=within) == expected


@given(opened_at=st.floats(0, 59), dice=st.lists(st.floats(0, 0.999), min_size=10, max_size=10))
def test_what_was_down_for_a_minute_is_tried_within_another_after_its_return(
    opened_at: float, dice: list[float]
) -> None:
    tried_at = opened_at
    for openings, drawn in enumerate(dice, start=1):
        tried_at += CircuitBreaker().pause(openings, dice=drawn).total_seconds()
        if tried_at >= 60:
            break

    assert 60 <= tried_at < 110
