"""Audit: what operators did, kept in the transaction that did it.

Guarantee: an act is recorded if and only if it was carried out.
Not promised: who really sat there; ``by`` is what the operator or the program said.
Source: EIP, *Control Bus*; the reading order is act.
"""

from pillarbox.audit.act import Act, ActStore, Forgotten, RecordedAct, check_words, checked

__all__ = ["Act", "ActStore", "Forgotten", "RecordedAct", "check_words", "checked"]
