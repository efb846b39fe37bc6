"""What comes next for a replay run, and how fast."""

import pytest

from pillarbox.deadletter import DeadLetterFilter, ReplayRun, RunState
from pillarbox.deadletter.driver import Allowance
from pillarbox.deadletter.redaction import WITHHELD, redacting
from pillarbox.deadletter.runs import AwaitOutcomes, EndRun, EnqueueMore, ItemState, ReplayTerms, next_step


def run(terms: ReplayTerms, **counts: int) -> ReplayRun:
    """Return an open run whose letters are in the states counted."""
    return ReplayRun(
        id="r",
        state=RunState.OPEN,
        wanted=DeadLetterFilter(),
        terms=terms,
        by="ann",
        created_at=None,
        ended_at=None,
        ended_because="",
        reached=0,
        items={ItemState(state): count for state, count in counts.items()},
    )


CANARY, HALF, ANY = ReplayTerms(canary=5), ReplayTerms(stop_at=0.5), ReplayTerms()
CANARY_HALF = ReplayTerms(canary=4, stop_at=0.5)


@pytest.mark.parametrize(
    ("terms", "counts", "expected"),
    [
        (ANY, {"pending": 100}, EnqueueMore(100)),
        (ANY, {"pending": 50, "failed": 50}, EnqueueMore(50)),
        (ANY, {"enqueued": 1, "resolved": 9}, AwaitOutcomes()),
        (ANY, {"resolved": 9, "failed": 1, "passed": 3}, EndRun(RunState.FINISHED)),
        (ANY, {}, EndRun(RunState.FINISHED)),
        (CANARY, {"pending": 100}, EnqueueMore(5)),
        (CANARY, {"pending": 98, "enqueued": 2}, EnqueueMore(3)),
        (CANARY, {"pending": 95, "enqueued": 3, "resolved": 2}, AwaitOutcomes()),
        (CANARY, {"pending": 95, "resolved": 5}, EnqueueMore(95)),
        (CANARY, {"pending": 80, "resolved": 15, "failed": 5}, EnqueueMore(80)),
        (CANARY, {"pending": 3}, EnqueueMore(3)),
        (CANARY, {"failed": 3, "passed": 90}, EndRun(RunState.FINISHED)),
        (HALF, {"pending": 90}, EnqueueMore(10)),
        (HALF, {"pending": 90, "failed": 9}, EnqueueMore(10)),
        (HALF, {"pending": 90, "failed": 9, "enqueued": 10}, AwaitOutcomes()),
        (HALF, {"pending": 90, "failed": 5, "resolved": 15, "enqueued": 4}, EnqueueMore(16)),
        (HALF, {"pending": 3, "failed": 5, "resolved": 15}, EnqueueMore(3)),
        (CANARY_HALF, {"pending": 90, "failed": 2, "resolved": 2}, EnqueueMore(10)),
    ],
)
def test_the_next_step_follows_from_the_terms_and_the_outcomes(
    terms: ReplayTerms, counts: dict[str, int], expected: object
) -> None:
    assert next_step(run(terms, **counts)) == expected


@pytest.mark.parametrize(
    ("terms", "counts"),
    [
        (CANARY, {"pending": 95, "failed": 1, "resolved": 4}),
        (HALF, {"pending": 90, "failed": 6, "resolved": 4}),
        (CANARY_HALF, {"pending": 90, "failed": 3, "resolved": 1}),
        (CANARY_HALF, {"pending": 9, "failed": 60, "resolved": 40, "enqueued": 5}),
        (ReplayTerms(stop_at=0), {"pending": 1, "failed": 1, "resolved": 999}),
    ],
)
def test_too_many_failures_stop_a_run(terms: ReplayTerms, counts: dict[str, int]) -> None:
    step = next_step(run(terms, **counts))

    assert isinstance(step, EndRun)
    assert step.state is RunState.STOPPED
    assert f"{counts['failed']} of" in step.because


@pytest.mark.parametrize(
    "terms", [{"rate": 0}, {"rate": -1}, {"canary": -1}, {"stop_at": 1.5}, {"stop_at": -0.1}], ids=str
)
def test_terms_that_make_no_sense_are_refused(terms: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(terms))):
        ReplayTerms(**terms)  # type: ignore[arg-type]  # a float where an int belongs is not the point


def test_an_allowance_follows_its_rate_and_saves_no_more_than_a_second() -> None:
    allowance = Allowance(100, now=0.0)
    enqueued = 0
    for tick in range(1, 101):
        due = allowance.at(tick / 10)
        allowance.spend(due)
        enqueued += due

    assert 990 <= enqueued <= 1000
    assert Allowance(100, now=0.0).at(60.0) == 100


def test_a_hook_that_fails_withholds_the_text() -> None:
    def broken(text: str) -> str:
        raise KeyError(text)

    assert redacting(broken)("s3cret") == WITHHELD
    assert redacting(str.upper)("a\0b") == "A\\x00B"
