"""Connections of asyncpg that bound something as they begin a transaction: one message to the server, not two."""

from __future__ import annotations

import re
from functools import cache
from importlib import import_module
from typing import Any, Final

BEGIN: Final = re.compile(r"BEGIN\b[^;]*;")
"""What asyncpg sends for a transaction, with its isolation or without."""


@cache
def bounded_connection(bound: str) -> type[Any]:
    """Return asyncpg's class of connections whose transactions begin with the statement ``bound``."""
    base: Any = import_module("asyncpg").Connection

    def bounded(query: str) -> str:
        return f"{query} {bound}" if BEGIN.fullmatch(query) else query

    async def execute(self: Any, query: str, *values: object, **options: Any) -> str:
        status: str = await base.execute(self, bounded(query), *values, **options)
        return status

    return type("BoundedConnection", (base,), {"execute": execute, "__slots__": ()})
