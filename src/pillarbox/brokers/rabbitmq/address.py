"""What the URL of a RabbitMQ says."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

from pillarbox.errors import ConfigurationError

PORTS: Final = {"amqp": 5672, "amqps": 5671}
HEARTBEAT, MANAGEMENT, CA_FILE, CERT_FILE, KEY_FILE = "heartbeat", "management", "cafile", "certfile", "keyfile"
KNOWN: Final = (HEARTBEAT, MANAGEMENT, CA_FILE, CERT_FILE, KEY_FILE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where a RabbitMQ is, and as whom to speak to it.

    Attributes:
        heartbeat_s: after twice this time without a sign of life either side gives the other up; ``None`` where the
            URL leaves it open.
        management: the address of its HTTP API, for the doctor.
    """

    host: str
    port: int
    user: str = field(repr=False)
    password: str = field(repr=False)
    virtual_host: str
    tls: ssl.SSLContext | None = None
    heartbeat_s: int | None = None
    management: str | None = None


def address_of(url: str) -> Address:
    """Read ``amqp://user:password@host:port/vhost?heartbeat=…``.

    Raises:
        ConfigurationError: it is no such URL, or names what is not known or cannot be read.
    """
    try:
        parts = urlsplit(url)
        port = parts.port or PORTS[parts.scheme]
        settings = dict(parse_qsl(parts.query, strict_parsing=bool(parts.query)))
        heartbeat = int(settings[HEARTBEAT]) if HEARTBEAT in settings else None
    except (ValueError, KeyError):
        raise ConfigurationError(
            "what broker= names is no URL of a RabbitMQ: amqp://user:password@host/vhost"
        ) from None
    if unknown := sorted(set(settings) - set(KNOWN)):
        raise ConfigurationError(f"the broker's URL sets {', '.join(unknown)}; known are {', '.join(KNOWN)}")
    if heartbeat is not None and heartbeat < 1:
        raise ConfigurationError(f"the broker's URL sets {HEARTBEAT}={heartbeat}; it is a number of seconds from 1 on")
    return Address(
        host=parts.hostname or "localhost",
        port=port,
        user=unquote(parts.username or "guest"),
        password=unquote(parts.password or "guest"),
        virtual_host=unquote(parts.path[1:]) or "/",
        tls=_context(settings) if parts.scheme == "amqps" else None,
        heartbeat_s=heartbeat,
        management=settings.get(MANAGEMENT),
    )


def _context(settings: dict[str, str]) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=settings.get(CA_FILE))
        if CERT_FILE in settings:
            context.load_cert_chain(settings[CERT_FILE], settings.get(KEY_FILE))
    except OSError as error:  # SSLError is one, too
        raise ConfigurationError(f"the certificates that the broker's URL names cannot be read: {error}") from error
    return context
