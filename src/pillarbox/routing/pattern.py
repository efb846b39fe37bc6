"""Text patterns for rules that come out of configuration: every match takes time linear in the text.

A subset of regular expressions without back-references and look-arounds, run as a set of states instead of by trying:
no pattern can be written that stops a consumer. A pattern always describes the whole text.

Source: Thompson, *Regular Expression Search Algorithm* (1968).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeAlias

from pillarbox.errors import ConfigurationError

MAX_STATES = 500
MAX_TEXT = 10_000
MAX_NESTING = 50
UNBOUNDED = -1

Test: TypeAlias = Callable[[str], bool]

CLASSES: dict[str, Test] = {
    "d": str.isdecimal,
    "D": lambda c: not c.isdecimal(),
    "w": lambda c: c.isalnum() or c == "_",
    "W": lambda c: not (c.isalnum() or c == "_"),
    "s": str.isspace,
    "S": lambda c: not c.isspace(),
}
CONTROLS = {"n": "\n", "t": "\t", "r": "\r"}
REPEATS = {"*": (0, UNBOUNDED), "+": (1, UNBOUNDED), "?": (0, 1)}


@dataclass(frozen=True, slots=True)
class Char:
    """One character that passes a test."""

    test: Test


@dataclass(frozen=True, slots=True)
class Sequence:
    """Parts one after the other."""

    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """One of several."""

    options: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Repeat:
    """A part from ``least`` to ``most`` times."""

    part: Node
    least: int
    most: int


Node: TypeAlias = Char | Sequence | Choice | Repeat


@dataclass(frozen=True, slots=True)
class State:
    """Where a match can be: with a test it takes one character on the way to ``after``, else none."""

    test: Test | None
    after: tuple[int, ...]


class Pattern:
    """A pattern, compiled."""

    def __init__(self, text: str) -> None:
        """Compile ``text``.

        Raises:
            ConfigurationError: it is no pattern, or too large.
        """
        self.text = text
        self._states: list[State] = []
        self._end = self._add(None)
        self._start = self._compile(_Parser(text).parse(), self._end)

    def matches(self, text: str) -> bool:
        """Tell whether the pattern describes the whole of ``text``.

        Raises:
            ValueError: the text is too long to be compared.
        """
        if len(text) > MAX_TEXT:
            raise ValueError(f"a text of {len(text)} characters is too long for a pattern; at most {MAX_TEXT} are read")
        current = self._reached((self._start,))
        for character in text:
            passed = [state for state in current if state.test is not None and state.test(character)]
            if not passed:
                return False
            current = self._reached(state.after[0] for state in passed)
        return self._states[self._end] in current

    def _reached(self, begin: Iterable[int]) -> list[State]:
        """Return the states that can be taken without a further character."""
        waiting = list(begin)
        seen = set(waiting)
        for number in waiting:
            state = self._states[number]
            if state.test is None:
                fresh = [after for after in state.after if after not in seen]
                seen.update(fresh)
                waiting += fresh
        return [self._states[number] for number in waiting]

    def _add(self, test: Test | None, *after: int) -> int:
        if len(self._states) >= MAX_STATES:
            raise ConfigurationError(f"the pattern {self.text[:100]!r} is too large; write it with fewer repetitions")
        self._states.append(State(test, after))
        return len(self._states) - 1

    def _compile(self, node: Node, after: int) -> int:
        """Add the states of ``node`` in front of ``after``; return the first."""
        match node:
            case Char(test):
                return self._add(test, after)
            case Sequence(parts):
                for part in reversed(parts):
                    after = self._compile(part, after)
                return after
            case Choice(options):
                return self._add(None, *[self._compile(option, after) for option in options])
            case Repeat(part, least, most):
                after = self._loop(part, after) if most == UNBOUNDED else self._optional(part, most - least, after)
                for _ in range(least):
                    after = self._compile(part, after)
                return after

    def _loop(self, part: Node, after: int) -> int:
        again = self._add(None, after)
        self._states[again] = State(None, (self._compile(part, again), after))
        return again

    def _optional(self, part: Node, times: int, end: int) -> int:
        after = end
        for _ in range(times):
            after = self._add(None, self._compile(part, after), end)
        return after


class _Parser:
    """Reads a pattern from left to right."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._depth = 0

    def parse(self) -> Node:
        node = self._choice()
        if self._at < len(self._text):
            raise self._fault(f"there is a {self._text[self._at]!r} too much")
        return node

    def _choice(self) -> Node:
        self._depth += 1
        if self._depth > MAX_NESTING:
            raise self._fault("it is nested too deeply")
        options = [self._sequence()]
        while self._take("|"):
            options.append(self._sequence())
        self._depth -= 1
        return options[0] if len(options) == 1 else Choice(tuple(options))

    def _sequence(self) -> Node:
        parts: list[Node] = []
        while self._at < len(self._text) and self._text[self._at] not in "|)":
            parts.append(self._repeated(self._one()))
        return Sequence(tuple(parts))

    def _repeated(self, part: Node) -> Node:
        sign = self._peek()
        if sign in REPEATS:
            self._at += 1
            least, most = REPEATS[sign]
        elif sign == "{":
            least, most = self._counts()
        else:
            return part
        if self._peek() and self._peek() in "*+?{":
            raise self._fault("a repetition is repeated; put the first one in parentheses")
        return Repeat(part, least, most)

    def _counts(self) -> tuple[int, int]:
        inside, brace, _ = self._text[self._at + 1 :].partition("}")
        low, comma, high = inside.partition(",")
        numbers = [low, high] if high else [low]
        if not brace or not all(number.isascii() and number.isdigit() and len(number) <= 3 for number in numbers):
            raise self._fault("write a repetition as {2}, {2,} or {2,5}; a brace itself as \\{")
        self._at += len(inside) + 2
        least = int(low)
        most = least if not comma else int(high) if high else UNBOUNDED
        if most not in (UNBOUNDED, max(least, most)):
            raise self._fault(f"{{{inside}}} ends before it begins")
        return least, most

    def _one(self) -> Node:
        character = self._next()
        match character:
            case ".":
                return Char(lambda c: c != "\n")
            case "(":
                if self._peek() == "?":
                    raise self._fault("a group may not begin with '?'")
                inner = self._choice()
                if not self._take(")"):
                    raise self._fault("a group has no end")
                return inner
            case "[":
                return Char(self._set())
            case "\\":
                return Char(self._escaped())
            case "*" | "+" | "?" | "{" | "}" | "]":
                raise self._fault(f"{character!r} stands alone; write it as \\{character}")
            case "^" | "$":
                raise self._fault(f"leave {character!r} out: a pattern always describes the whole text")
            case _:
                return Char(character.__eq__)

    def _set(self) -> Test:
        """Read what stands between brackets."""
        is_negated = self._take("^")
        tests: list[Test] = []
        while not self._take("]"):
            first = self._next()
            if first == "[":
                raise self._fault("write a bracket between brackets as \\[")
            test = self._escaped() if first == "\\" else None
            if self._peek() == "-" and self._text[self._at + 1 : self._at + 2] not in ("]", ""):
                self._at += 1
                last = self._next()
                if test is not None or last in "\\[" or last < first:
                    raise self._fault(f"{first}-{last} is no range of characters")
                test = _between(first, last)
            tests.append(test or first.__eq__)
        if not tests:
            raise self._fault("there is nothing between its brackets")
        return lambda c: any(test(c) for test in tests) is not is_negated

    def _escaped(self) -> Test:
        character = self._next()
        if character in CLASSES:
            return CLASSES[character]
        if character in CONTROLS:
            return CONTROLS[character].__eq__
        if character.isalnum():
            raise self._fault(f"nobody knows \\{character}; there are \\d \\w \\s \\D \\W \\S \\n \\r \\t")
        return character.__eq__

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _take(self, wanted: str) -> bool:
        found = self._peek() == wanted
        self._at += found
        return found

    def _next(self) -> str:
        if self._at >= len(self._text):
            raise self._fault("it ends too early")
        self._at += 1
        return self._text[self._at - 1]

    def _fault(self, what: str) -> ConfigurationError:
        return ConfigurationError(f"{self._text[:100]!r} is no pattern: {what} (before character {self._at + 1})")


def _between(first: str, last: str) -> Test:
    return lambda c: first <= c <= last
