"""Calls to the outside and their answers, in SQL."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import BigInteger, LargeBinary, String, bindparam, delete, literal, null, select, update

from pillarbox.idempotency import CallStore, DoubtfulCall
from pillarbox.idempotency.calls import Answered, Held, InDoubt, Ours, Standing
from pillarbox.relational.expressions import MICROSECONDS, any_of, insert_into, micros, now_us, texts
from pillarbox.relational.tables import outside_calls
from pillarbox.transaction import Execute, Program

BEGUN, ANSWERED = "begun", "answered"

_call = outside_calls.c
KEY = bindparam("of_key", type_=_call.call_key.type)
TOKEN = bindparam("by_token", type_=String)
BODY = bindparam("answer_body", type_=LargeBinary)
HELD_UNTIL = now_us() + bindparam("hold_us", type_=BigInteger)
_columns = ("call_key", "state", "token", "held_until", "begun_at", "answer", "answered_at")

BEGIN = (  # the primary key decides; a concurrent transaction with the same key is waited for
    insert_into(outside_calls)
    .from_select(list(_columns), select(KEY, literal(BEGUN), TOKEN, HELD_UNTIL, now_us(), null(), null()))
    .on_conflict_do_nothing()
)
LOOK = (
    select(_call.state, _call.token, _call.answer, _call.held_until > now_us(), now_us() - _call.begun_at)
    .where(_call.call_key == KEY)
    .with_for_update()
)
TAKE_OVER = update(outside_calls).where(_call.call_key == KEY).values(token=TOKEN, held_until=HELD_UNTIL)
_is_ours = (_call.call_key == KEY, _call.state == BEGUN, _call.token == TOKEN)
HOLD = update(outside_calls).where(*_is_ours).values(held_until=HELD_UNTIL)
WITHDRAW = delete(outside_calls).where(*_is_ours)
ANSWER = (
    update(outside_calls)
    .where(_call.call_key == KEY, _call.state == BEGUN)
    .values(state=ANSWERED, answer=BODY, answered_at=now_us())
)
ANSWER_UNBEGUN = (
    insert_into(outside_calls)
    .from_select(list(_columns), select(KEY, literal(ANSWERED), literal(""), literal(0), now_us(), BODY, now_us()))
    .on_conflict_do_nothing()
)
RETURNED = update(outside_calls).where(_call.call_key == KEY).values(answered_at=now_us())  # who asks may ask again
STORED = select(_call.answer).where(_call.call_key == KEY, _call.state == ANSWERED).with_for_update(read=True)
_doubtful = (_call.state == BEGUN, _call.held_until <= now_us())
DOUBTFUL = (  # index on (state, answered_at)
    select(_call.call_key, now_us() - _call.begun_at)
    .where(*_doubtful)
    .order_by(_call.begun_at)
    .limit(bindparam("up_to", type_=BigInteger))
)
DOUBTFUL_ONE = select(_call.call_key, now_us() - _call.begun_at).where(_call.call_key == KEY, *_doubtful)
ALLOW = delete(outside_calls).where(_call.call_key == KEY, *_doubtful).returning(_call.call_key)
FORGET_ANSWER = delete(outside_calls).where(_call.call_key == KEY, _call.state == ANSWERED).returning(_call.call_key)
_kept_since = select(now_us() - bindparam("age_us", type_=BigInteger)).scalar_subquery()  # once, for an index's sake
OLDEST = (  # index on (state, answered_at)
    select(_call.call_key)
    .where(_call.state == ANSWERED, _call.answered_at < _kept_since)
    .order_by(_call.answered_at)
    .limit(bindparam("up_to", type_=BigInteger))
    .with_for_update(skip_locked=True)
)
PURGE = delete(outside_calls).where(any_of(_call.call_key, texts("keys")))


class RelationalCallStore(CallStore):
    """Calls as rows: begun, under a token and for a while by the database's clock, or answered."""

    def begin(self, key: str, *, token: str, hold: timedelta, repeatable_for: timedelta | None) -> Program[Standing]:
        """Insert; then look at the row, whoever inserted it, and take it over if that is safe."""
        mine = {"of_key": key, "by_token": token, "hold_us": micros(hold)}
        yield Execute(BEGIN, mine)
        found = yield Execute(LOOK, {"of_key": key})
        if not found:
            return Held()  # it was withdrawn in between: look again
        state, holder, answer, is_held, age_us = found[0]
        if state == ANSWERED:
            yield Execute(RETURNED, {"of_key": key})
            return Answered(bytes(answer))
        if is_held:
            return Ours() if holder == token else Held()
        age = timedelta(seconds=age_us / MICROSECONDS)
        if repeatable_for is None or age >= repeatable_for:
            return InDoubt(age)
        yield Execute(TAKE_OVER, mine)
        return Ours()

    def hold(self, key: str, *, token: str, until: timedelta) -> Program[None]:
        """Write another end."""
        yield Execute(HOLD, {"of_key": key, "by_token": token, "hold_us": micros(until)})

    def answer(self, key: str, body: bytes) -> Program[bytes]:
        """Write it where none is; a call that was forgotten meanwhile is noted anew, since it has been made."""
        given = {"of_key": key, "answer_body": body}
        yield Execute(ANSWER, given)
        stored = yield Execute(STORED, {"of_key": key})
        if not stored:
            yield Execute(ANSWER_UNBEGUN, given)
            stored = yield Execute(STORED, {"of_key": key})
        return bytes(stored[0][0])

    def withdraw(self, key: str, *, token: str) -> Program[None]:
        """Delete the row."""
        yield Execute(WITHDRAW, {"of_key": key, "by_token": token})

    def in_doubt(self, *, limit: int, key: str | None = None) -> Program[Sequence[DoubtfulCall]]:
        """Select what was begun and nobody holds."""
        found = yield (Execute(DOUBTFUL, {"up_to": limit}) if key is None else Execute(DOUBTFUL_ONE, {"of_key": key}))
        return [DoubtfulCall(key=one, age=timedelta(seconds=age_us / MICROSECONDS)) for one, age_us in found]

    def allow(self, key: str, *, answered: bool = False) -> Program[bool]:
        """Delete the row unless somebody holds it."""
        return bool((yield Execute(FORGET_ANSWER if answered else ALLOW, {"of_key": key})))

    def purge(self, older_than: timedelta, *, limit: int) -> Program[int]:
        """Lock the oldest answers that nobody else is at, then delete them."""
        found = yield Execute(OLDEST, {"age_us": micros(older_than), "up_to": limit})
        if found:
            yield Execute(PURGE, {"keys": [row[0] for row in found]})
        return len(found)
