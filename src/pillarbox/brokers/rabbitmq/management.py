"""What only the HTTP API of RabbitMQ's management plugin tells."""

from __future__ import annotations

import asyncio
import base64
import urllib.request
from typing import Any, Final
from urllib.parse import quote, urlsplit

import msgspec

from pillarbox.brokers.rabbitmq.address import Address
from pillarbox.brokers.rabbitmq.wire import ANSWER_WITHIN_S

_COLUMNS: Final = "name,type,arguments,effective_policy_definition,members,online"
_OF_EXCHANGES: Final = "name,arguments,policy"


class ManagementError(Exception):
    """The HTTP API gave no answer; the text says why, without credentials."""


async def ask_management(address: Address, base: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return what is told of the nodes, and of the queues of the virtual host.

    Raises:
        ManagementError: it cannot be reached, or refused.
    """
    host = quote(address.virtual_host, safe="")
    nodes = await asyncio.to_thread(_get, address, f"{base.rstrip('/')}/api/nodes")
    queues = await asyncio.to_thread(_get, address, f"{base.rstrip('/')}/api/queues/{host}?columns={_COLUMNS}")
    return nodes, queues


async def ask_exchanges(address: Address, base: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return what is told of the exchanges of the virtual host, and its policies: none for a user who may not see them.

    Raises:
        ManagementError: it cannot be reached, or does not even tell of exchanges.
    """
    host = quote(address.virtual_host, safe="")
    url = f"{base.rstrip('/')}/api/exchanges/{host}?columns={_OF_EXCHANGES}"
    exchanges = await asyncio.to_thread(_get, address, url)
    try:
        return exchanges, await asyncio.to_thread(_get, address, f"{base.rstrip('/')}/api/policies/{host}")
    except ManagementError:
        return exchanges, []


def _get(address: Address, url: str) -> list[dict[str, Any]]:
    if urlsplit(url).scheme not in ("http", "https"):
        raise ManagementError("management= is no http:// or https:// address")
    login = base64.b64encode(f"{address.user}:{address.password}".encode()).decode()
    request = urllib.request.Request(url, headers={"Authorization": f"Basic {login}"})
    try:
        with urllib.request.urlopen(request, timeout=ANSWER_WITHIN_S) as answer:
            return msgspec.json.decode(answer.read(), type=list[dict[str, Any]])
    except (OSError, ValueError) as error:  # urllib's errors are OSErrors, msgspec's ValueErrors
        raise ManagementError(str(error)) from error
