"""What a flow keeps of a message."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from pillarbox.flow import Passage
from pillarbox.flow.record import LONGEST, fitting, seen
from pillarbox.message import Cause, Message
from pillarbox.message import headers as names
from pillarbox.message.causes import pack_causes


def make(headers: Mapping[str, str]) -> Message:
    return Message(
        id="m-2",
        type="payment.charged",
        destination="topic:payment",
        key="o-1",
        content_type="application/json",
        headers=headers,
        body=b"{}",
    )


def test_its_cause_is_the_one_of_its_causes_that_it_was_published_for() -> None:
    causes = [Cause("m-0", "price.set", "topic:price"), Cause("c-1", "payment.charge", "queue:payments")]

    found = seen(
        make(
            {
                names.CORRELATION_ID: "m-1",
                names.CAUSATION_ID: "c-1",
                names.CAUSES: pack_causes(causes),
                names.HOP: "2",
                names.SOURCE: "payment",
                names.TIME: "2026-03-01T12:00:00+00:00",
            }
        )
    )

    assert (found.correlation_id, found.causation_id, found.hop, found.service) == ("m-1", "c-1", 2, "payment")
    assert found.cause == Passage("payment.charge", "queue:payments")
    assert found.published_at is not None


def test_a_message_without_headers_begins_a_process() -> None:
    found = seen(make({}))

    assert (found.correlation_id, found.causation_id, found.cause, found.hop) == ("m-2", None, None, 0)


def test_headers_that_others_filled_with_anything_are_no_failure() -> None:
    found = seen(make({names.HOP: "far", names.TIME: "noon", names.CAUSES: "[", names.CAUSATION_ID: "c-1"}))

    assert (found.hop, found.published_at, found.cause, found.causation_id) == (0, None, None, "c-1")


@pytest.mark.parametrize("identity", ["x" * (LONGEST + 1), "ü" * LONGEST, "a\0b", "a\ud800b"])
def test_ids_that_no_column_takes_are_kept_by_their_digest(identity: str) -> None:
    assert fitting(identity).startswith("sha256:")
    assert fitting(fitting(identity)) == fitting(identity)
    assert fitting("m-1") == "m-1"


@pytest.mark.parametrize("strange", ["x" * (LONGEST + 1), "a\0b"])
def test_what_no_column_takes_of_the_rest_is_left_out(strange: str) -> None:
    cause = pack_causes([Cause("c-1", strange, "queue:payments")])

    found = seen(make({names.SOURCE: strange, names.CAUSATION_ID: "c-1", names.CAUSES: cause}))

    assert (found.service, found.cause, found.causation_id) == ("", None, "c-1")
