"""A retry budget: some retries are free, the others are saved up by calls that succeed."""

from __future__ import annotations

import pytest

from pillarbox.errors import ConfigurationError
from pillarbox.retry import CircuitBreaker
from pillarbox.retry.budget import RetryBudget


def spent(budget: RetryBudget) -> int:
    """Spend all there is."""
    count = 0
    while budget.spend():
        count += 1
    return count


def test_ten_are_free() -> None:
    assert spent(RetryBudget(0.0)) == 10


def test_each_call_that_succeeds_saves_its_share() -> None:
    budget = RetryBudget(0.25)
    spent(budget)
    for _ in range(9):
        budget.succeeded()

    assert spent(budget) == 2


def test_no_more_are_saved_than_are_free() -> None:
    budget = RetryBudget(0.25)
    for _ in range(1000):
        budget.succeeded()

    assert spent(budget) == 10


@pytest.mark.parametrize("retries", [-0.1, float("inf"), float("nan")])
def test_a_share_that_is_no_number_is_refused(retries: float) -> None:
    with pytest.raises(ConfigurationError, match="retries"):
        CircuitBreaker(retries=retries)
