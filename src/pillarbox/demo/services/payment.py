"""The payment service: charges cards, and gives the money back where an order cannot be fulfilled."""

from sqlalchemy import BigInteger, Column, Integer, String, Table, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from pillarbox import Handlers
from pillarbox.demo.messages import (
    ChargePayment,
    OrderPlaced,
    PaymentCompleted,
    PaymentFailed,
    PaymentRefunded,
    RefundPayment,
)
from pillarbox.demo.services.defaults import RETRY, metadata

payments = Table(
    "demo_payments",
    metadata,
    Column("payment_id", Integer, primary_key=True, autoincrement=True),
    Column("order_id", String(64), nullable=False, index=True),
    Column("kind", String(10), nullable=False),
    Column("amount_cents", BigInteger, nullable=False),
    Column("card_holder", String(200), nullable=False),
)

CARD_LIMIT_CENTS = 200_000
"""What a card of the demo can be charged at most for one order."""

handlers = Handlers(retry=RETRY)
asked = Handlers(retry=RETRY)
"""What the service does when a saga asks it."""


@handlers.on(OrderPlaced, name="charge-payment")
async def charge_payment(order: OrderPlaced, tx: AsyncConnection) -> PaymentCompleted | PaymentFailed:
    """Charge the order's total, unless the card is not good for it."""
    return await _charged(order, tx)


@asked.on(ChargePayment, name="charge-payment")
async def take_payment(order: ChargePayment, tx: AsyncConnection) -> PaymentCompleted | PaymentFailed:
    """Do the same for a saga, and answer it."""
    return await _charged(order, tx)


async def _charged(order: OrderPlaced | ChargePayment, tx: AsyncConnection) -> PaymentCompleted | PaymentFailed:
    """What is said depends on the charge alone: both commit together, and no failure of ours is a refusal."""
    if order.total_cents > CARD_LIMIT_CENTS:
        return PaymentFailed(order.order_id, "your card was declined")
    await _book(tx, order.order_id, "charge", order.total_cents, order.customer)
    return PaymentCompleted(order.order_id, order.sku, order.quantity, order.total_cents)


@handlers.on(RefundPayment, name="refund-payment")
@asked.on(RefundPayment, name="refund-payment")
async def refund_payment(refund: RefundPayment, tx: AsyncConnection) -> PaymentRefunded:
    """Give back what this order was charged and has not been given back yet, which may be nothing."""
    of_order = payments.c.order_id == refund.order_id
    charged = select(func.coalesce(func.sum(payments.c.amount_cents), 0), func.max(payments.c.card_holder))
    amount_cents, card_holder = (await tx.execute(charged.where(of_order))).one()
    if amount_cents:
        await _book(tx, refund.order_id, "refund", -amount_cents, card_holder)
    return PaymentRefunded(refund.order_id, int(amount_cents))


async def _book(tx: AsyncConnection, order_id: str, kind: str, amount_cents: int, card_holder: str) -> None:
    row = {"order_id": order_id, "kind": kind, "amount_cents": amount_cents, "card_holder": card_holder}
    await tx.execute(payments.insert(), row)
