"""The doctor asks everything and puts the worst first."""

from collections.abc import Sequence

from pillarbox.control.diagnosis import Diagnosable, Doctor, Finding, Severity, diagnosis_of
from pillarbox.errors import BrokerUnavailableError


class Patient(Diagnosable):
    def __init__(self, *severities: Severity) -> None:
        self.severities = severities

    async def diagnose(self, *, deep: bool) -> Sequence[Finding]:
        return [
            Finding(code=f"{number}{'-deep' if deep else ''}", severity=severity, subject="s", what="w")
            for number, severity in enumerate(self.severities)
        ]


async def test_the_worst_comes_first_whoever_has_it() -> None:
    store = Patient(Severity.OK, Severity.WARNING, Severity.WARNING)
    broker = Patient(Severity.NOTICE, Severity.ERROR)

    found = await Doctor([store, broker]).examine(deep=True)

    assert found.worst is Severity.ERROR
    assert [one.code for one in found.findings] == ["1-deep", "1-deep", "2-deep", "0-deep", "0-deep"]


def test_nothing_looked_at_is_nothing_found() -> None:
    assert diagnosis_of([]).worst is Severity.OK


async def test_a_broker_that_is_away_is_a_finding_and_hides_nothing_of_the_others() -> None:
    class Away(Diagnosable):
        async def diagnose(self, *, deep: bool) -> list[Finding]:
            raise BrokerUnavailableError(broker="kafka", reason="connection refused")

    found = await Doctor([Away(), Patient(Severity.WARNING)]).examine()

    assert [(one.severity, one.subject) for one in found.findings] == [
        (Severity.ERROR, "kafka"),
        (Severity.WARNING, "s"),
    ]
    assert found.worst is Severity.ERROR
