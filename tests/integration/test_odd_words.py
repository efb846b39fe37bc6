"""Words that no database keeps, given to the Python interface: refused in words of ours, by whichever driver."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import make_url

from pillarbox import Pillarbox
from pillarbox.app.controlling import control_of
from pillarbox.errors import ConfigurationError, NotFoundError
from tests.integration.boxes import make_box

SERVER = pytest.mark.server


@pytest.fixture(
    params=[
        "sqlite",
        *(pytest.param(one, marks=SERVER) for one in ("postgresql", "postgresql+asyncpg", "mariadb+asyncmy")),
    ]
)
def url(request: pytest.FixtureRequest) -> str:
    server, _, driver = request.param.partition("+")
    url = make_url(str(request.getfixturevalue(f"{server}_url")))
    return str(url.set(drivername=request.param) if driver else url)


def asked(box: Pillarbox, words: str) -> dict[str, Any]:
    """What is asked with them."""
    control = control_of(box.store)
    return {
        "sagas of a name": lambda: box.sagas.list(saga=words),
        "sagas in a step": lambda: box.sagas.list(step=words),
        "a saga": lambda: box.sagas.get(words),
        "a saga retried": lambda: box.sagas.retry(words, reason="mended", by="ada"),
        "a group": lambda: box.dead_letters.resolve_group(words, by="ada"),
        "a parked record": lambda: control.outbox.retry(words),
        "a call in doubt": lambda: control.calls.allow(words),
        "held messages": lambda: control.held.list(words),
        "gaps": lambda: control.gaps.list(consumer=words),
    }


@pytest.mark.parametrize("words", ["a\0b", "a\ud800b"], ids=["nul", "surrogate"])
async def test_what_no_database_keeps_is_not_found_or_refused(url: str, words: str) -> None:
    box, _ = make_box(url)
    async with box:
        for name, ask in asked(box, words).items():
            try:
                found = await ask()
            except (ConfigurationError, NotFoundError):
                continue
            assert not found, name
