"""How alerts reach their targets, and what happens when they do not."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import logging
import threading
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from pillarbox import Alert, AlertRules, LogAlert, WebhookAlert
from pillarbox.alerts import Alarm, AlertSender
from pillarbox.alerts.sending import PAUSES, WITHIN
from pillarbox.errors import ConfigurationError
from pillarbox.observe import AlertFailed, BreakerOpened, Event, Observer
from pillarbox.testing import VirtualClock
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from pillarbox.alerts import AlertTarget

ALERT = Alert(
    id="a-1",
    at=datetime(2026, 1, 1, tzinfo=UTC),
    service="shop",
    rule="oldest-pending",
    subject="outbox",
    text="it has waited",
    count=2,
    facts={"age": timedelta(seconds=90), "attempts": 3},
)
OPENED = BreakerOpened(dependency="d", error_type="E", openings=1, retry_after=timedelta(0))


class Receiver(BaseHTTPRequestHandler):
    """A web server that keeps what it is sent."""

    def do_POST(self) -> None:
        server = self.server
        assert isinstance(server, Web)
        body = self.rfile.read(int(self.headers["content-length"]))
        server.got.append((dict(self.headers.items()), body))
        self.send_response(server.status)
        if server.status == 302:
            self.send_header("location", "/elsewhere")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""


class Web(HTTPServer):
    """The server and what it has got."""

    status = 200

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Receiver)
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.url = f"http://127.0.0.1:{self.server_port}/hook"


@pytest.fixture
def web() -> Iterator[Web]:
    """A web server on a free port."""
    with running(Web()) as server:
        yield server


@contextmanager
def running(server: Web) -> Iterator[Web]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(
    ("secret", "key"), [("a plain text", b"a plain text"), ("whsec_" + base64.b64encode(b"key").decode(), b"key")]
)
async def test_a_webhook_is_signed_as_standard_webhooks_are(web: Web, secret: str, key: bytes) -> None:
    await WebhookAlert(web.url, secret=secret)(ALERT)

    ((headers, body),) = web.got
    signed = f"{headers['Webhook-Id']}.{headers['Webhook-Timestamp']}.".encode() + body
    expected = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    assert headers["Webhook-Signature"] == f"v1,{expected}"
    assert abs(int(headers["Webhook-Timestamp"]) - datetime.now(UTC).timestamp()) < 300
    told = json.loads(body)
    assert (told["id"], told["rule"], told["count"]) == ("a-1", "oldest-pending", 2)
    assert told["facts"] == {"age_s": 90.0, "attempts": 3}


@pytest.mark.parametrize("status", [302, 404, 500])
async def test_an_answer_that_is_no_success_is_an_error(web: Web, status: int) -> None:
    web.status = status

    with pytest.raises(OSError, match=str(status)):
        await WebhookAlert(web.url, secret="x")(ALERT)
    assert len(web.got) == 1


@pytest.mark.parametrize(
    ("url", "secret"),
    [
        ("ftp://host/x", "x"),
        ("file:///etc/passwd", "x"),
        ("https://", "x"),
        ("https://h/", ""),
        ("https://h/", "whsec_!"),
        ("http://[h/", "x"),
        ("http://h:port/", "x"),
        (3, "x"),
        (b"https://h/", "x"),
        ("https://h/", 3),
    ],
)
def test_what_cannot_work_is_refused_at_once(url: Any, secret: Any) -> None:
    with pytest.raises(ConfigurationError):
        WebhookAlert(url, secret=secret)


def test_a_webhook_shows_neither_its_path_nor_its_secret() -> None:
    shown = repr(WebhookAlert("https://hooks.example/T0/s3cret", secret="hush"))

    assert shown == "WebhookAlert('hooks.example')"


async def test_the_log_has_one_line_for_an_alert(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR, logger="pillarbox.alerts"):
        await LogAlert()(ALERT)

    (record,) = caplog.records
    assert 'rule="oldest-pending"' in record.getMessage()
    assert "age_s=90.0" in record.getMessage()
    assert "\n" not in record.getMessage()


class Failures(Observer):
    """The failures of alerts."""

    def __init__(self) -> None:
        self.seen: list[AlertFailed] = []

    def notice(self, event: Event, /) -> None:
        assert isinstance(event, AlertFailed)
        self.seen.append(event)


@asynccontextmanager
async def sending(target: AlertTarget) -> AsyncIterator[tuple[Alarm, Failures]]:
    """A sender at work on virtual time."""
    clock, failures = VirtualClock(autojump=True), Failures()
    alarm = Alarm("shop", target, AlertRules(repeat_after=timedelta(0)), clock=clock, new_id=lambda: "a-1")
    sender = AlertSender(alarm, clock=clock, observer=failures)
    async with asyncio.TaskGroup() as group:
        group.create_task(sender.run())
        yield alarm, failures
        sender.stop()


async def test_a_target_that_fails_is_tried_again_then_given_up_and_the_next_alert_is_sent() -> None:
    calls: list[str] = []

    async def target(alert: Alert) -> None:
        calls.append(alert.subject)
        if alert.subject == "bad":
            raise ConnectionError("nobody there")

    async with sending(target) as (alarm, failures):
        for name in ("bad", "good"):
            alarm.notice(BreakerOpened(dependency=name, error_type="E", openings=1, retry_after=timedelta(0)))
        await wait_until(lambda: "good" in calls)

        assert calls == [*["bad"] * (len(PAUSES) + 1), "good"]
        assert [one.is_given_up for one in failures.seen] == [False] * len(PAUSES) + [True]
        assert failures.seen[0].error_type == "ConnectionError"
        assert "target" in failures.seen[0].target


async def test_a_target_that_is_cancelled_from_within_does_not_end_the_sender() -> None:
    calls: list[str] = []

    async def target(alert: Alert) -> None:
        calls.append(alert.subject)
        if len(calls) == 1:
            raise asyncio.CancelledError

    async with sending(target) as (alarm, failures):
        alarm.notice(OPENED)
        await wait_until(lambda: len(calls) == 2)
        assert len(failures.seen) == 1


async def test_what_waits_is_sent_before_a_process_ends() -> None:
    calls: list[str] = []

    async def target(alert: Alert) -> None:
        calls.append(alert.subject)

    async with sending(target) as (alarm, _):
        alarm.notice(OPENED)

    assert calls == ["d"]


def test_a_target_has_some_seconds() -> None:
    assert timedelta(seconds=1) < WITHIN < timedelta(minutes=1)
