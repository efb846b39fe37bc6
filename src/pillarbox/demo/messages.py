"""What the five services say to each other: facts as events, and intents as commands."""

from dataclasses import dataclass

from pillarbox import command, event


@event("order.placed", key="order_id")
@dataclass(frozen=True)
class OrderPlaced:
    """A customer has ordered; the fulfilment begins."""

    order_id: str
    customer: str
    priority: str
    sku: str
    quantity: int
    total_cents: int


@event("payment.completed", key="order_id")
@dataclass(frozen=True)
class PaymentCompleted:
    """The customer's card was charged."""

    order_id: str
    sku: str
    quantity: int
    amount_cents: int


@event("payment.failed", key="order_id")
@dataclass(frozen=True)
class PaymentFailed:
    """The customer's card was declined; nothing was charged."""

    order_id: str
    reason: str


@event("payment.refunded", key="order_id")
@dataclass(frozen=True)
class PaymentRefunded:
    """What was charged has been given back."""

    order_id: str
    amount_cents: int


@event("stock.reserved", key="order_id")
@dataclass(frozen=True)
class StockReserved:
    """The goods are set aside for the order."""

    order_id: str
    sku: str
    quantity: int


@event("stock.rejected", key="order_id")
@dataclass(frozen=True)
class StockRejected:
    """There are not enough goods left; the payment must be undone."""

    order_id: str
    reason: str


@event("stock.released", key="order_id")
@dataclass(frozen=True)
class StockReleased:
    """What was set aside is on its shelf again."""

    order_id: str
    quantity: int


@event("shipping.failed", key="order_id")
@dataclass(frozen=True)
class ShippingFailed:
    """No carrier takes the parcel; what was done for the order must be undone."""

    order_id: str
    reason: str


@event("order.shipped", key="order_id", topic="order-outcome")
@dataclass(frozen=True)
class OrderShipped:
    """The parcel is on its way: the good end of a fulfilment."""

    order_id: str
    tracking: str


@event("order.cancelled", key="order_id", topic="order-outcome")
@dataclass(frozen=True)
class OrderCancelled:
    """Nothing will be shipped and nothing is charged: the other end of a fulfilment."""

    order_id: str
    reason: str


@command("payment.refund", queue="refunds", key="order_id")
@dataclass(frozen=True)
class RefundPayment:
    """Give back what was charged for an order."""

    order_id: str
    reason: str


@command("payment.charge", queue="payments", key="order_id")
@dataclass(frozen=True)
class ChargePayment:
    """Charge the customer's card; asked for by the orchestrating saga, as all that follow."""

    order_id: str
    customer: str
    sku: str
    quantity: int
    total_cents: int


@command("stock.reserve", queue="stock", key="order_id")
@dataclass(frozen=True)
class ReserveStock:
    """Set goods aside."""

    order_id: str
    sku: str
    quantity: int


@command("stock.release", queue="stock", key="order_id")
@dataclass(frozen=True)
class ReleaseStock:
    """Put back what was set aside."""

    order_id: str


@command("parcel.send", queue="parcels", key="order_id")
@dataclass(frozen=True)
class SendParcel:
    """Hand the goods to a carrier."""

    order_id: str
    sku: str
    quantity: int


@event("parcel.sent", key="order_id")
@dataclass(frozen=True)
class ParcelSent:
    """The answer to ``SendParcel``."""

    order_id: str
    tracking: str
