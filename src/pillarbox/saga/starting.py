"""How an instance begins, and what parent and child tell each other."""

from __future__ import annotations

from secrets import token_urlsafe

import msgspec

from pillarbox.idempotency.fitting import fitting_header
from pillarbox.message import event
from pillarbox.saga.journal import Journal, Parent, encode_journal
from pillarbox.saga.store import NewSaga, SagaKey


@event("pillarbox.saga-ended", topic="pillarbox-sagas")
class ChildEnded(msgspec.Struct, frozen=True, kw_only=True):
    """Tells a saga that its child has ended."""

    status: str
    reason: str = ""


@event("pillarbox.saga-undo", topic="pillarbox-sagas")
class UndoChild(msgspec.Struct, frozen=True, kw_only=True):
    """Asks for a child to be undone, and for word of it; ``forced`` even past its pivot."""

    saga: str
    saga_id: str
    to: str
    key: str
    token: str
    forced: bool = False


def new_saga(
    key: SagaKey,
    *,
    service: str,
    version: int,
    state: str,
    content_type: str,
    correlation_id: str | None = None,
    parent: Parent | None = None,
) -> NewSaga:
    """Return a saga to be started, with an empty journal."""
    journal = Journal(secret=token_urlsafe(18), parent=parent)
    return NewSaga(
        key=key,
        service=service,
        version=version,
        state=state,
        content_type=content_type,
        journal=encode_journal(journal).decode(),
        correlation_id=fitting_header(correlation_id or key.saga_id),
    )
