"""Every store keeps the contracts of numbered messages."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pillarbox.consumer.transact import single
from pillarbox.message import Number, number_of
from pillarbox.outbox import record_of
from pillarbox.relational.kept import fetching
from pillarbox.testing.contracts import KeptContract, KeyNumbersContract, PositionsContract
from pillarbox.testing.contracts.harness import TOPIC, append, make_message, read_all, take_all

if TYPE_CHECKING:
    from pillarbox.testing.contracts import StoreHarness


class TestKeyNumbers(KeyNumbersContract):
    """See the contract."""


class TestPositions(PositionsContract):
    """See the contract."""


class TestKept(KeptContract):
    """See the contract."""

    async def test_what_is_published_at_this_moment_is_found_before_or_after(self, harness: StoreHarness) -> None:
        tenant = await take_all(harness)
        await append(harness, record_of(make_message("m1"), numbered=True))
        (record,) = await read_all(harness)
        number = number_of(record.message)
        assert number is not None
        program = fetching(TOPIC, "k", first=Number(number.epoch, 1), last=9)

        seen = await harness.source.run(single(next(program)))
        await harness.source.run(harness.slots.settle_and_keep(tenant.scope, tenant.tokens, [record.position]))
        then = await harness.source.run(single(program.send(seen)))

        with pytest.raises(StopIteration) as end:
            program.send(then)
        assert [one.id for one in end.value.value] == ["m1"]
