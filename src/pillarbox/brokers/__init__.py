"""Brokers: what carries messages from the relay to the consumers.

Guarantee: every broker passes the same public contract suites, as far as its declared capabilities go.
Not promised: more than a broker's own settings give; `doctor` names the weak ones.
Source: EIP, *Channel Adapter*; one folder a broker.
"""
