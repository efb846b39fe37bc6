"""Events as log lines."""

import json
import logging
from collections.abc import Iterator
from dataclasses import fields
from datetime import timedelta
from typing import get_args

import pytest

from pillarbox import Pillarbox, WebhookAlert
from pillarbox.observe import (
    Event,
    MessageDead,
    MessageHandled,
    MessageRouted,
    MessagesPublished,
    Observer,
    WorkerFaltered,
)
from pillarbox.telemetry import JsonLines, LoggingObserver, TextLines
from pillarbox.telemetry.logging_ import facts_of, line_of

FALTERED = WorkerFaltered(
    worker="Relay",
    error_type="OperationalError",
    error='cannot reach "postgresql://shop:s3cret@db"\nwill not\x1b[31m try',
    retry_after=timedelta(seconds=1.5),
)


@pytest.fixture
def logger(request: pytest.FixtureRequest) -> Iterator[logging.Logger]:
    made = logging.getLogger(f"test.{request.node.name}")
    made.setLevel(logging.INFO)
    made.propagate = False
    yield made
    made.handlers.clear()


class Kept(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


def logged(logger: logging.Logger, event: Event) -> logging.LogRecord:
    kept = Kept()
    logger.addHandler(kept)
    LoggingObserver(logger).notice(event)
    (record,) = kept.records
    return record


def test_an_event_is_one_line_with_its_name_and_ids(logger: logging.Logger) -> None:
    record = logged(logger, MessageHandled(consumer="shop/notify", message_id="m-1", attempts=2))

    assert record.getMessage() == "event=message_handled consumer=shop/notify message_id=m-1 attempts=2"
    assert record.levelno == logging.INFO


def test_values_with_blanks_are_quoted_and_stay_on_the_line() -> None:
    line = line_of(facts_of(FALTERED))

    assert line.startswith("event=worker_faltered worker=Relay error_type=OperationalError ")
    assert "\n" not in line
    assert "\x1b" not in line
    assert "retry_after_s=1.5" in line


def test_passwords_are_masked_in_events(logger: logging.Logger) -> None:
    record = logged(logger, FALTERED)

    assert "s3cret" not in TextLines().format(record)
    assert "s3cret" not in JsonLines().format(record)


def test_what_needs_an_operator_is_an_error(logger: logging.Logger) -> None:
    record = logged(logger, MessageDead(consumer="shop/notify", message_id="m-1", reason="exhausted", attempts=5))

    assert record.levelno == logging.ERROR


def test_a_json_line_is_one_object_with_the_events_fields(logger: logging.Logger) -> None:
    line = JsonLines().format(logged(logger, MessagesPublished(count=3)))

    told = json.loads(line)
    assert "\n" not in line
    assert (told["event"], told["count"], told["level"]) == ("messages_published", 3, "info")


def test_a_record_that_is_not_ours_is_formatted_too() -> None:
    record = logging.makeLogRecord({"name": "asyncio", "msg": "at %s", "args": ("postgresql://u:s3cret@h",)})

    assert json.loads(JsonLines().format(record))["message"] == "at postgresql://u:***@h"
    assert TextLines().format(record).endswith("at postgresql://u:***@h")


def test_no_event_has_a_field_for_a_body() -> None:
    names = {field.name for event in get_args(Event) for field in fields(event)}

    assert not names & {"body", "payload", "key", "message", "headers"}


def test_several_addresses_stand_in_one_value() -> None:
    routed = MessageRouted(consumer="shop/orders", message_id="m1", destinations=("queue:a", "topic:b"))

    assert facts_of(routed)["destinations"] == "queue:a topic:b"


@pytest.mark.parametrize("alerts", [False, True])
def test_a_box_that_nobody_observes_logs_what_goes_wrong_and_nothing_else(
    alerts: bool,  # a case
    caplog: pytest.LogCaptureFixture,
) -> None:
    box = Pillarbox("shop", store="memory://")
    if alerts:  # one that fails is told of by nobody else
        box.alert_to(WebhookAlert("https://alerts.example", secret="s"))
    caplog.set_level(logging.INFO, logger="pillarbox")

    box.observers.notice(FALTERED)
    box.observers.notice(MessagesPublished(count=1))

    (record,) = caplog.records
    assert (record.levelname, record.name) == ("ERROR", "pillarbox")


def test_a_box_with_an_observer_logs_nothing_of_its_own_accord(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[Event] = []

    class Seeing(Observer):
        def notice(self, event: Event, /) -> None:
            seen.append(event)

    box = Pillarbox("shop", store="memory://")
    box.observe(Seeing())

    box.observers.notice(FALTERED)

    assert (seen, caplog.records) == ([FALTERED], [])
