"""Consumers: a message's handling, its effects, its inbox row and what it publishes commit together.

Guarantee: effects in the handler's transaction happen once per message; of a key nothing runs before what is earlier.
Not promised: that a handler is invoked only once; a neighbour's failure may roll its run back.
Source: EIP, *Idempotent Receiver*, *Message Dispatcher*; the reading order is handlers, spec, resolve; worker,
process, run, intake, transact, outside, drainer; what a consumer may ask for besides: remembering (business keys),
gate with by_sequence and causal (orders), alone, stopping, dependency (breakers), forwarding (routes).
"""

from pillarbox.consumer.context import Context
from pillarbox.consumer.forwarding import RouteOptions, declaration_of
from pillarbox.consumer.handlers import Declaring, Handlers, HandlesMessage, Options
from pillarbox.consumer.injection import Provider, Providers, Scope
from pillarbox.consumer.spec import Consumer, ConsumerOptions, Declaration, Idempotency, WhenDead

__all__ = [
    "Consumer",
    "ConsumerOptions",
    "Context",
    "Declaration",
    "Declaring",
    "Handlers",
    "HandlesMessage",
    "Idempotency",
    "Options",
    "Provider",
    "Providers",
    "RouteOptions",
    "Scope",
    "WhenDead",
    "declaration_of",
]
