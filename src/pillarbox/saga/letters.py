"""What a saga sends to others: commands whose replies it awaits, and words to its children and its parent."""

from __future__ import annotations

from typing import Any

from pillarbox.errors import InternalError, InvalidReturnError
from pillarbox.idempotency.fitting import fitting, fitting_header
from pillarbox.message import message_type_of
from pillarbox.message.return_address import ReturnAddress
from pillarbox.outbox import Origin, OutboxRecord, PublishOptions
from pillarbox.saga.definition import Saga
from pillarbox.saga.happening import Act
from pillarbox.saga.journal import Journal, Parent
from pillarbox.saga.resolve import Definition
from pillarbox.saga.rules import Rules
from pillarbox.saga.starting import ChildEnded, UndoChild, new_saga
from pillarbox.saga.store import NewSaga, SagaKey, SagaRow
from pillarbox.saga.token import Awaited, signed


class Letters:
    """The letters of one saga."""

    def __init__(self, row: SagaRow, rules: Rules) -> None:
        """Write in the name of the saga in ``row``."""
        self._key = row.key
        self._rules = rules
        self.origin = Origin(correlation_id=row.correlation_id)

    def request(self, act: Act, command: object, replies: tuple[str, ...], journal: Journal) -> OutboxRecord:
        """Return ``command``, to be answered by one of ``replies``.

        Raises:
            InvalidMessageError, ConfigurationError: it cannot be sent as it is.
            InvalidReturnError: it is an event: of several consumers of a service the guard would let one handle it.
        """
        if message_type_of(type(command)).kind != "command":
            where = f"step {act.step!r} of {self._key.saga}"
            wanted = "a command, whose one consumer answers"
            raise InvalidReturnError(consumer=where, returned=f"the event {type(command).__qualname__}", wanted=wanted)
        awaits = self._address(act, journal, replies)
        return self._rules.outbox.prepare(command, options=PublishOptions(awaits=awaits), origin=self.origin)

    def child(self, act: Act, child: Saga[Any] | None, state: object, journal: Journal) -> NewSaga:
        """Return the child to be started with ``state``.

        Raises:
            InvalidReturnError: the state is of another class.
            InvalidMessageError: it cannot be carried.
        """
        if child is None or not isinstance(state, child.state):
            where = f"step {act.step!r} of {self._key.saga}"
            wanted = "the child's state" if child is None else f"{child.state.__qualname__}, the child's state"
            raise InvalidReturnError(consumer=where, returned=type(state).__qualname__, wanted=wanted)
        again = journal.of(act.step, act.direction) is not None
        name = self._key.saga.removeprefix(f"{self._rules.service}/")
        saga_id = f"{self._key.saga_id}.{name}.{act.step}" + (f".{journal.places}" if again else "")
        address = self._address(act, journal)
        return new_saga(
            SagaKey(f"{self._rules.service}/{child.name}", fitting(saga_id)),
            service=self._rules.service,
            version=child.version,
            state=self._rules.states.text_of(state),
            content_type=self._rules.states.content_type,
            correlation_id=self.origin.correlation_id,
            parent=Parent(to=address.to, key=address.key, token=address.token),
        )

    def undo_child(self, act: Act, definition: Definition, journal: Journal) -> OutboxRecord:
        """Return the wish that a child be undone; the answer comes when it is."""
        step, done = definition.step(act.step), journal.do.get(act.step)
        if step is None or step.do.child is None or done is None:
            raise InternalError(f"{definition.name} has no child {act.step!r}")
        address = self._address(act, journal)
        wish = UndoChild(
            saga=f"{self._rules.service}/{step.do.child.name}",
            saga_id=done.token,
            to=address.to,
            key=address.key,
            token=address.token,
            forced=journal.forced,
        )
        return self._told(wish, ReturnAddress(to=self._rules.replies, key=done.token, types=(), token=""))

    def to_parent(self, journal: Journal) -> OutboxRecord | None:
        """Return the word that the saga has ended; ``None`` if nobody waits for it."""
        parent = journal.parent
        if parent is None:
            return None
        ended = ChildEnded(status=journal.status.value, reason=journal.stopping or journal.error)
        return self._told(ended, ReturnAddress(to=parent.to, key=parent.key, types=(), token=parent.token))

    def _told(self, words: object, there: ReturnAddress) -> OutboxRecord:
        return self._rules.outbox.prepare(words, options=PublishOptions(answers=there), origin=self.origin)

    def _address(self, act: Act, journal: Journal, types: tuple[str, ...] = ()) -> ReturnAddress:
        asked = Awaited(self._key.saga, self._key.saga_id, act.step, act.direction, act.attempt, act.round)
        token = signed(asked, journal.secret)
        key = fitting_header(self._key.saga_id)
        return ReturnAddress(to=self._rules.replies, key=key, types=types, token=token)
