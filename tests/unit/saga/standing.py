"""Where sagas stand."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from tests.waiting import wait_until

if TYPE_CHECKING:
    from pillarbox import Pillarbox
    from pillarbox.saga.store import SagaDetails

SOON = timedelta(seconds=20)


async def stands(box: Pillarbox, saga: str, saga_id: str, *statuses: str) -> SagaDetails:
    """Wait until a saga stands at one of ``statuses``."""

    async def does() -> SagaDetails | None:
        found = await box.sagas.get(saga_id, saga=saga)
        return found if found.summary.status in statuses else None

    found = await wait_until(does, SOON)
    assert found is not None
    return found
