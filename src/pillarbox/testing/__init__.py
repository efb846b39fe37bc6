"""Testing: what users and writers of adapters need to prove that their part holds.

Guarantee: an adapter that passes its contract suite keeps every rule that its port states.
Not promised: anything about speed.
Source: verified fakes and conformance suites of Trio and Watermill; the reading order is contracts.
"""

import pytest

pytest.register_assert_rewrite("pillarbox.testing.contracts")  # so that a failed rule shows its values
