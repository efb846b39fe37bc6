"""The five services of the order fulfilment, one module each: its tables, its handlers, nothing of its neighbours.

Guarantee: each service changes its own tables and publishes what it did in one transaction.
Not promised: that the services agree at every instant; they agree when everything has been handled.
Source: microservices.io, *Choreography-based saga*; Richardson, *Microservices Patterns*, on
orchestration; the reading order is orders, payment, inventory, shipping, notification, fulfilment.
"""
