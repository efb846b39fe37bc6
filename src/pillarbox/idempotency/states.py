"""The states of a row and the ways between them: pure decisions."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from enum import Enum
from typing import TypeAlias

from pillarbox.errors import ConfigurationError

State: TypeAlias = str | Enum


class StateMachine:
    """The states that a row may be in, and which may follow which."""

    def __init__(self, transitions: Mapping[State, Collection[State]]) -> None:
        """Allow ``transitions``: for each state those that may follow at once.

        Raises:
            ConfigurationError: a state follows that is not among the states.
        """
        self._next: dict[State, frozenset[State]] = {
            state: frozenset(following) for state, following in transitions.items()
        }
        if unknown := {one for following in self._next.values() for one in following} - set(self._next):
            names = ", ".join(sorted(map(str, unknown)))
            raise ConfigurationError(
                f"{names} may follow, but no entry says what may come after; give it one, maybe ()"
            )
        self._passed: dict[object, frozenset[State]] = {state: self._passed_before(state) for state in self._next}

    @classmethod
    def in_order(cls, states: Sequence[State]) -> StateMachine:
        """Return a machine whose states only go forward, and may leave some out.

        Raises:
            ConfigurationError: there are fewer than two states, or one of them comes twice.
        """
        if isinstance(states, str) or len(states) < 2 or len(set(states)) < len(states):
            raise ConfigurationError(f"order= must be two states or more, each once; it is {states!r}")
        machine = cls({state: tuple(states[at + 1 :]) for at, state in enumerate(states)})
        machine._passed = {state: frozenset(states[:at]) for at, state in enumerate(states)}
        return machine

    def before(self, state: State) -> tuple[State, ...]:
        """Return the states that ``state`` may follow at once.

        Raises:
            ConfigurationError: it is not among the states.
        """
        if state not in self._next:
            known = ", ".join(map(str, self._next))
            raise ConfigurationError(f"{state!r} is none of the states {known}")
        return tuple(one for one, following in self._next.items() if state in following and one != state)

    def has_passed(self, current: object, state: State) -> bool:
        """Tell whether a row in ``current`` is in ``state`` or must have been: the event that leads there came late.

        Where a way to ``current`` leads around ``state``, it may never have been there.
        """
        known = self._named(current)
        return known == state or state in self._passed.get(known, ())

    def _named(self, current: object) -> object:
        """Return what this machine calls ``current``: a column of enums takes names, and returns members for them."""
        if current in self._next or not isinstance(current, Enum):
            return current
        names = (name for name in (current.name, current.value) if isinstance(name, str))
        return next((name for name in names if name in self._next), current)

    def _passed_before(self, current: State) -> frozenset[State]:
        """Return the states that every way to ``current`` leads through."""
        followers = {one for state, following in self._next.items() for one in following if one != state}
        first = [state for state in self._next if state not in followers] or list(self._next)[:1]
        return frozenset(one for one in self._next if one != current and current not in self._reach(first, around=one))

    def _reach(self, first: Collection[State], *, around: State) -> set[State]:
        """Return every state that can be reached from ``first`` without passing ``around``."""
        pending = [state for state in first if state != around]
        found = set(pending)
        while pending:
            new = [one for one in self._next[pending.pop()] if one not in found and one != around]
            found.update(new)
            pending += new
        return found
