"""The rules of those who keep numbered messages."""

from __future__ import annotations

import pytest

from pillarbox.message import Number, number_of
from pillarbox.outbox import record_of
from pillarbox.testing.contracts.harness import (
    TOPIC,
    StoreHarness,
    append,
    make_message,
    make_record,
    read_all,
    take_all,
)


class KeptContract:
    """What every ``Kept`` keeps; subclass it and supply ``harness``, whose outbox the messages come from."""

    pytestmark = pytest.mark.asyncio

    async def test_messages_are_returned_by_number(self, harness: StoreHarness) -> None:
        """Of one line, as they were published."""
        for at in range(1, 6):
            await append(harness, record_of(make_message(f"m{at}"), numbered=True), make_record(f"plain{at}", "o"))
            await append(harness, record_of(make_message(f"o{at}", "o2"), numbered=True))
        (epoch,) = {number.epoch for number in await self._numbers(harness)}

        found = await harness.kept.fetch(TOPIC, "k", first=Number(epoch, 2), last=4)

        assert [one.id for one in found] == ["m2", "m3", "m4"]
        assert [number_of(one) for one in found] == [Number(epoch, at) for at in (2, 3, 4)]
        assert found[0].body == make_message("m2").body

    async def test_an_epoch_is_not_taken_for_another(self, harness: StoreHarness) -> None:
        """Their numbers are the same."""
        await append(harness, record_of(make_message("old"), numbered=True))
        await harness.source.run(harness.numbers.begin_epoch())
        await append(harness, record_of(make_message("new"), numbered=True))
        first, second = sorted(await self._numbers(harness))

        assert [one.id for one in await harness.kept.fetch(TOPIC, "k", first=first, last=9)] == ["old"]
        assert [one.id for one in await harness.kept.fetch(TOPIC, "k", first=second, last=9)] == ["new"]

    async def test_what_was_published_is_returned_as_far_as_it_is_kept(self, harness: StoreHarness) -> None:
        """With what is still to be published; a record that was not kept leaves a hole."""
        tenant = await take_all(harness)
        await append(harness, *(record_of(make_message(f"m{at}"), numbered=True) for at in range(1, 6)))
        (epoch,) = {number.epoch for number in await self._numbers(harness)}
        positions = [one.position for one in await read_all(harness)]
        await harness.source.run(harness.slots.settle_and_keep(tenant.scope, tenant.tokens, positions[:2]))
        await harness.source.run_single(harness.slots.settle(tenant.scope, tenant.tokens, positions[2:3]))

        found = await harness.kept.fetch(TOPIC, "k", first=Number(epoch, 2), last=5)

        assert [one.id for one in found] == ["m2", "m4", "m5"]

    async def test_what_is_not_kept_is_not_returned(self, harness: StoreHarness) -> None:
        """Nothing is made up."""
        assert list(await harness.kept.fetch(TOPIC, "nobody", first=Number(1, 1), last=9)) == []

    async def _numbers(self, harness: StoreHarness) -> set[Number]:
        """Return the numbers of the key ``k`` that stand in the outbox."""
        records = await read_all(harness)
        return {number for one in records if one.message.key == "k" and (number := number_of(one.message)) is not None}
