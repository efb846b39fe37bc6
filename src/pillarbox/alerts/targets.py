"""Ready-made targets: the log, and a webhook by the standard library alone."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import json
import logging
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from pillarbox.alerts.alert import Alert
from pillarbox.errors import ConfigurationError
from pillarbox.errors.values import SOME_TIME, check_value

SECRET_PREFIX = "whsec_"
LOGGER_NAME = "pillarbox.alerts"


class LogAlert:
    """Logs each alert as an error: one line, with its facts as ``name=value``."""

    def __init__(self, logger: logging.Logger | None = None) -> None:
        """Log to ``logger``, by default the one named ``pillarbox.alerts``."""
        self._logger = logger if logger is not None else logging.getLogger(LOGGER_NAME)

    async def __call__(self, alert: Alert) -> None:
        """Log ``alert``."""
        facts = {name: value for name, value in as_json(alert).items() if name != "facts"} | as_json(alert)["facts"]
        line = " ".join(f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in facts.items())
        self._logger.error("%s", line, extra={"pillarbox": {"event": "alert", **facts}})


class WebhookAlert:
    """Posts each alert as JSON, signed so that the receiver can tell that it is ours.

    The headers are those of Standard Webhooks: ``webhook-id`` (the same when it is sent again), ``webhook-timestamp``,
    and ``webhook-signature``: ``v1,`` and the base64 of the HMAC-SHA256 of ``<id>.<timestamp>.<body>``.
    """

    def __init__(self, url: str, *, secret: str, timeout: timedelta = timedelta(seconds=5)) -> None:
        """Post to ``url``.

        Args:
            url: ``https://…`` or ``http://…``; redirections are not followed.
            secret: what both sides know; ``whsec_`` and base64, as Standard Webhooks has it, or any text.
            timeout: how long each step of the exchange may take.

        Raises:
            ConfigurationError: the URL is none of a web server, or the secret is empty or no base64.
        """
        check_value(url, str, name="WebhookAlert(url)", shown="something else")
        check_value(secret, str, name="WebhookAlert(secret=)", shown="something else")
        if not _is_of_a_web_server(url):
            raise ConfigurationError("WebhookAlert posts to https://… or http://…; the URL is neither")
        self._url = url
        self._key = _key_of(secret)
        check_value(timeout, timedelta, name="WebhookAlert(timeout=)", bounds=SOME_TIME)
        self._timeout_s = timeout.total_seconds()
        self._opener = build_opener(_NoRedirection)

    def __repr__(self) -> str:
        """Name the host; a path may be a secret."""
        return f"WebhookAlert({urlsplit(self._url).hostname!r})"

    async def __call__(self, alert: Alert) -> None:
        """Post ``alert`` in a thread.

        Raises:
            OSError: the server cannot be reached, or its answer is no success.
        """
        await asyncio.to_thread(self._post, alert)

    def _post(self, alert: Alert) -> None:
        body = json.dumps(as_json(alert), ensure_ascii=False).encode()
        headers = {"content-type": "application/json", **signed(self._key, alert.id, datetime.now(UTC), body)}
        request = Request(self._url, data=body, headers=headers, method="POST")  # checked above
        try:
            with self._opener.open(request, timeout=self._timeout_s) as answer:
                answer.read(1)
        except HTTPError as refused:
            refused.close()  # it is the answer, too, with the connection
            raise


class _NoRedirection(HTTPRedirectHandler):
    """A redirected POST would arrive as a GET without its body."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        """Follow none: the answer is an error then."""


def as_json(alert: Alert) -> dict[str, Any]:
    """Return ``alert`` in JSON's types; durations become seconds, under a name that says so."""
    facts = dict(
        (f"{name}_s", value.total_seconds()) if isinstance(value, timedelta) else (name, value)
        for name, value in alert.facts.items()
    )
    return {
        "id": alert.id,
        "at": alert.at.isoformat(),
        "service": alert.service,
        "rule": alert.rule,
        "subject": alert.subject,
        "text": alert.text,
        "count": alert.count,
        "facts": facts,
    }


def signed(key: bytes, identity: str, at: datetime, body: bytes) -> Mapping[str, str]:
    """Return the headers that sign ``body``, sent now: receivers refuse what was signed long ago."""
    stamp = str(int(at.timestamp()))
    digest = hmac.new(key, b".".join([identity.encode(), stamp.encode(), body]), hashlib.sha256).digest()
    signature = f"v1,{base64.b64encode(digest).decode()}"
    return {"webhook-id": identity, "webhook-timestamp": stamp, "webhook-signature": signature}


def _is_of_a_web_server(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # of a port that is no number, or of brackets
        return False


def _key_of(secret: str) -> bytes:
    if not secret:
        raise ConfigurationError("WebhookAlert needs a secret, so that the receiver can tell who posts")
    if not secret.startswith(SECRET_PREFIX):
        return secret.encode()
    try:
        return base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    except binascii.Error:
        raise ConfigurationError(f"what follows {SECRET_PREFIX!r} in WebhookAlert(secret=…) is no base64") from None
