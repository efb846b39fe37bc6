"""The notification service: writes to customers, outside any transaction of ours.

A mail cannot be rolled back. The handler asks for no transaction, may run again after a crash, and passes a key by
which the gateway knows what it has sent already.
"""

from abc import abstractmethod
from typing import Protocol

from pillarbox import Context, Handlers
from pillarbox.demo.messages import OrderCancelled, OrderShipped
from pillarbox.demo.services.defaults import RETRY

handlers = Handlers(retry=RETRY)


class MailGateway(Protocol):
    """Sends mails, at most one for each idempotency key."""

    @abstractmethod
    async def send(self, *, order_id: str, text: str, idempotency_key: str) -> None:
        """Send ``text`` to the customer of ``order_id``; with a key that was used before, do nothing."""


@handlers.on(OrderShipped, OrderCancelled, name="notify-customer", outside=True)
async def notify_customer(outcome: OrderShipped | OrderCancelled, mails: MailGateway, ctx: Context) -> None:
    """Tell the customer how the order ended."""
    if isinstance(outcome, OrderShipped):
        text = f"Your order {outcome.order_id} is on its way: {outcome.tracking}"
    else:
        text = f"Your order {outcome.order_id} was cancelled: {outcome.reason}"
    await mails.send(order_id=outcome.order_id, text=text, idempotency_key=ctx.idempotency_key())
