"""How many an operator asks for, on databases that take a negative number for no limit, or refuse it."""

from __future__ import annotations

from typing import Any

import pytest

from pillarbox.app.controlling import control_of
from pillarbox.app.places import store_at
from pillarbox.errors import ConfigurationError


@pytest.mark.parametrize("limit", [-1, 2**63, 1.5, None])
async def test_a_limit_that_is_none_is_refused_before_a_database_is_asked(limit: int) -> None:
    control = control_of(store_at("memory://"))
    letters = control.dead_letters
    lists = [control.sagas.list, control.flows.stuck, control.held.list, control.gaps.list, control.outbox.parked]

    asked: list[Any] = [*lists, letters.list, letters.groups, letters.runs]
    for ask in asked:
        with pytest.raises(ConfigurationError, match="limit must be a whole number"):
            await ask(limit=limit)


async def test_nothing_is_a_limit(store_url: str) -> None:
    store = store_at(store_url)
    await store.migrate()

    assert await control_of(store).sagas.list(limit=0) == ()
    assert await control_of(store).sagas.list(limit=2**63 - 1) == ()
    await store.close()
