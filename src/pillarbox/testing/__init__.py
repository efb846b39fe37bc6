"""Testing: what users and writers of adapters need to prove that their part holds.

Guarantee: an adapter that passes its contract suite keeps every rule that its port states.
Not promised: anything about speed.
Source: verified fakes of Trio, conformance suites of Watermill; the reading order is harness, virtual_clock, contracts.
"""

from contextlib import suppress

from pillarbox.testing.harness import Handled, Harness
from pillarbox.testing.virtual_clock import VirtualClock

with suppress(ImportError):  # the harness serves other test runners too
    import pytest

    pytest.register_assert_rewrite("pillarbox.testing.contracts")  # so that a failed rule shows its values

__all__ = ["Handled", "Harness", "VirtualClock"]
