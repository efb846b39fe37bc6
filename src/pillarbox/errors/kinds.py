"""The root of the errors, and the kinds that say who must act."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import timedelta

_Error = TypeVar("_Error", bound="PillarboxError")


def _rebuild(kind: type[_Error], args: tuple[object, ...], attributes: Mapping[str, object]) -> _Error:
    """Restore a pickled error without running its constructor, whose arguments are keyword-only."""
    error = kind.__new__(kind)
    error.args = args
    error.__dict__.update(attributes)
    return error


class PillarboxError(Exception):
    """Root of every exception that the library raises."""

    def __init__(self, message: str, /) -> None:
        """Keep ``message``: what happened, to which object, and what to do."""
        super().__init__(message)

    def __reduce__(self) -> tuple[Callable[..., PillarboxError], tuple[object, ...]]:
        """Pickle by text and attributes, so that errors cross process borders."""
        return _rebuild, (type(self), self.args, dict(self.__dict__))


class ConfigurationError(PillarboxError):
    """The program is wrong as written or as set up; the programmer must act."""


class TransientError(PillarboxError):
    """Waiting may help; the retry policy decides when the attempt is made again."""


class PermanentError(PillarboxError):
    """Waiting cannot help; the message goes to the dead letters at once."""


class ConflictError(PillarboxError):
    """Another worker won; nothing was changed: read again and try again."""


class NotFoundError(PillarboxError, LookupError):
    """An operator's verb named something that is not there; nothing was changed.

    Attributes:
        kind: What was looked for, as in ``dead letter``.
        identifier: The name or id that was given.
    """

    def __init__(self, *, kind: str, identifier: str) -> None:
        super().__init__(f"there is no {kind} {identifier!r}; it may have been settled meanwhile: list them again")
        self.kind = kind
        self.identifier = identifier


class ReplayedTooOftenError(PillarboxError):
    """A dead letter failed after so many replays that another would most likely fail too; nothing was changed.

    Attributes:
        letter_id: The letter.
        replays: How often it was replayed.
    """

    def __init__(self, *, letter_id: int, replays: int) -> None:
        super().__init__(
            f"dead letter {letter_id} was replayed {replays} times and failed each time; mend the cause first, "
            "then force it with force=True or --force"
        )
        self.letter_id = letter_id
        self.replays = replays


class ReplayTooLateError(PillarboxError):
    """A dead letter is older than what the inbox is sure to remember; nothing was changed.

    Attributes:
        letter_id: The letter.
        dead_for: How long ago it failed last.
        replay_within: How old a letter may be to be replayed.
    """

    def __init__(self, *, letter_id: int, dead_for: timedelta, replay_within: timedelta) -> None:
        super().__init__(
            f"dead letter {letter_id} failed {dead_for} ago, and replays are safe within {replay_within}: what has had "
            "its effect meanwhile may be forgotten by now, and would have it again; look, then force it with "
            "force=True or --force"
        )
        self.letter_id = letter_id
        self.dead_for = dead_for
        self.replay_within = replay_within


class InternalError(PillarboxError):
    """An invariant of the library broke; please report it with the traceback."""
