"""What makes a message a dead letter, or has it refused at publish."""

from __future__ import annotations

from pillarbox.errors.kinds import PermanentError


class CauseMissingError(PermanentError):
    """A message cannot be handled after its causes, since they do not come; its consumer wants it dead then.

    Attributes:
        consumer: The consumer that keeps the order of causes.
        causes: The ids of the messages that it has not processed.
        trouble: ``missing``, ``dead`` or ``cycle``.
    """

    def __init__(self, *, consumer: str, causes: tuple[str, ...], trouble: str) -> None:
        why = {
            "missing": "they did not come in time",
            "dead": "one of them is a dead letter",
            "cycle": "one of them waits for this message itself",
        }[trouble]
        super().__init__(
            f"{consumer!r} has not processed what comes before this message ({', '.join(causes)}): {why}; "
            "see to them, then replay it"
        )
        self.consumer = consumer
        self.causes = causes
        self.trouble = trouble


class ConditionError(PermanentError):
    """A routing condition could not be judged for a message; the message was not forwarded anywhere.

    Attributes:
        router: The name of the router.
        rule: The name of the rule whose condition it was.
        reason: What went wrong, without the message's values.
    """

    def __init__(self, *, router: str, rule: str, reason: str) -> None:
        super().__init__(f"the condition of {rule!r} of {router!r} failed: {reason}; mend it, then replay the message")
        self.router = router
        self.rule = rule
        self.reason = reason


class DecodeError(PermanentError, ValueError):
    """A body cannot be read as the type that its envelope names; the bytes are kept as they came.

    Attributes:
        message_type: The logical name on the envelope; ``None`` when even that could not be read.
        reason: What is wrong with the body.
        is_of_saga: It is no message but what is kept of a saga, which ``message_type`` names.
    """

    def __init__(self, *, reason: str, message_type: str | None = None, is_of_saga: bool = False) -> None:
        what = "the message" if message_type is None else f"the body of {message_type!r}"
        text = f"{what} cannot be decoded: {reason}; mend the producer, or edit and replay the dead letter"
        if is_of_saga:
            text = f"the {message_type} cannot be read: {reason}; look with the release that has written it"
        super().__init__(text)
        self.message_type = message_type
        self.reason = reason
        self.is_of_saga = is_of_saga


class HandlerCrashedError(PermanentError):
    """A message ended the process each time it was handled alone; it is in the dead letters.

    Attributes:
        consumer: The consumer whose handler it was.
        crashes: How many processes it ended.
    """

    def __init__(self, *, consumer: str, crashes: int) -> None:
        """Name the consumer."""
        super().__init__(
            f"{crashes} processes ended while {consumer!r} handled this message alone; mend the handler, then replay it"
        )
        self.consumer = consumer
        self.crashes = crashes


class InDoubtError(PermanentError):
    """A call to the outside was begun, its answer is not known, and it cannot safely be made again.

    Attributes:
        key: The key under which it was made.
        reason: Why it cannot be made again.
    """

    def __init__(self, *, key: str, reason: str) -> None:
        super().__init__(
            f"the call {key!r} may have been made: {reason}; look it up at the other side, then give its answer to "
            "box.calls.record, or have it made anew with box.calls.allow, and replay the dead letter"
        )
        self.key = key
        self.reason = reason


class InvalidMessageError(PermanentError, ValueError):
    """A message was refused at publish, or a saga's state, inside the caller's transaction; nothing was written.

    Attributes:
        message_type: The logical name of the message, or the class that has none.
        reason: What is wrong with it: its size, a value, a name, a header.
        message_id: Its id, where it had one by then.
        is_state: It is the state of a saga.
    """

    def __init__(
        self, *, message_type: str, reason: str, message_id: str | None = None, is_state: bool = False
    ) -> None:
        what = f"a state {message_type!r} cannot be kept" if is_state else f"{message_type!r} cannot be published"
        super().__init__(f"{what}: {reason}")
        self.message_type = message_type
        self.reason = reason
        self.message_id = message_id
        self.is_state = is_state


class InvalidReturnError(PermanentError, TypeError):
    """A handler returned something that is no message, or a saga's step no state; its attempt was rolled back."""

    def __init__(self, *, consumer: str, returned: str, wanted: str = "") -> None:
        who = consumer if wanted else f"consumer {consumer!r}"
        super().__init__(
            f"{who} returned {returned}; return {wanted or 'messages, tuples or lists of messages, or None'}"
        )
        self.consumer = consumer
        self.returned = returned


class MissingBusinessKeyError(PermanentError, ValueError):
    """A message has no business key by which its consumer could know duplicates; its handler was not called.

    Attributes:
        consumer: The consumer that was declared with ``dedupe_by=``.
        reason: What is wrong with the key, without its value.
    """

    def __init__(self, *, consumer: str, reason: str) -> None:
        super().__init__(
            f"consumer {consumer!r} knows duplicates by a business key, which this message does not have: {reason}; "
            "mend the producer or dedupe_by=, then replay it"
        )
        self.consumer = consumer
        self.reason = reason


class RoutingLoopError(PermanentError):
    """A message came back to a router that has forwarded it before; routers do not change it, so it would circle.

    Attributes:
        router: The identity of the router.
        path: The routers that it has passed, in order.
    """

    def __init__(self, *, router: str, path: str) -> None:
        super().__init__(f"{router!r} has forwarded this message before (it has passed {path}); break the circle")
        self.router = router
        self.path = path


class SequenceError(PermanentError):
    """A message does not fit into the line of numbers that its consumer goes by.

    Attributes:
        number: Its number within its epoch; ``None`` where it bears none.
        reason: What is wrong with it.
    """

    def __init__(self, *, number: int | None, reason: str) -> None:
        which = "a message without a number" if number is None else f"number {number}"
        super().__init__(f"{which} does not fit into its line: {reason}")
        self.number = number
        self.reason = reason


class TransactionEndedError(PermanentError):
    """A handler ended the transaction that it was lent, or would have; its effects may already be committed.

    Attributes:
        refused: the words of a statement that was not executed since it would have ended the transaction.
    """

    def __init__(self, *, consumer: str, refused: str | None = None) -> None:
        did = "committed or rolled back" if refused is None else f"may not execute {refused}, which would end"
        super().__init__(
            f"consumer {consumer!r} {did} the transaction it was lent; "
            "leave that to Pillarbox, and use a savepoint to undo a part"
        )
        self.consumer = consumer
        self.refused = refused


class UnknownMessageTypeError(PermanentError, LookupError):
    """No class is registered for a logical message type and version.

    Attributes:
        message_type: The logical name, as in ``order.placed``.
    """

    def __init__(self, *, message_type: str, version: int) -> None:
        super().__init__(
            f"no class is registered for {message_type!r} version {version}; "
            "register it with box.register(...), or add an upcaster from that version"
        )
        self.message_type = message_type
        self.version = version


class UnmatchedMessageError(PermanentError):
    """No rule of a router matches a message, and the router has no default channel.

    Attributes:
        router: The name of the router.
    """

    def __init__(self, *, router: str) -> None:
        super().__init__(f"no rule of {router!r} matches this message; add one, or name a default=, then replay it")
        self.router = router
