"""Order fulfilment by five services: the whole way of a message on real input, counted at the end.

Guarantee: exit code 0 only if nothing was lost, nothing was applied twice and the money adds up.
Not promised: speed; each handling keeps books that a real service would not.
Source: microservices.io, *Choreography-based saga*; the reading order is messages, services, production, shop, run,
reconciliation, endings.
"""

from pillarbox.demo.demo import run_demo
from pillarbox.demo.run import DemoOptions

__all__ = ["DemoOptions", "run_demo"]
