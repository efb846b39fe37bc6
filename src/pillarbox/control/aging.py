"""Dead letters that can soon be replayed by force only, told of while there is time to decide about them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from pillarbox.deadletter.groups import AgedLetters

NEAR = 0.75
"""The share of ``replay_within`` from which on a dead letter is told of: with 14 days, three and a half are left."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgingLetters:
    """The dead letters of a consumer that are near the age beyond which only force replays them, or past it.

    Attributes:
        letters: whose, how many, and the oldest's age.
        replay_within: that age, counted from a letter's last failure.
    """

    letters: AgedLetters
    replay_within: timedelta

    @property
    def left(self) -> timedelta:
        """How long the oldest can still be replayed without force; negative where that is over."""
        return self.replay_within - self.letters.oldest_for

    @property
    def told(self) -> str:
        """A sentence for people, with what to do."""
        whose, age = self.letters.consumer, _rounded(self.letters.oldest_for)
        what = f"{self.letters.count} dead letters of {whose} are old, the oldest failed {age} ago"
        if self.left > timedelta(0):
            until = f"replays need force in {_rounded(self.left)}, beyond {self.replay_within}"
            do = f"pillarbox dead-letters replay-all --consumer {whose}, or discard them, or have the inbox keep longer"
        else:
            until = f"its replay has needed force for {_rounded(-self.left)}, beyond {self.replay_within}"
            do = f"pillarbox dead-letters list --consumer {whose}, then replay-all --force, or discard"
        return f"{what}; {until}: {do}"


def _rounded(age: timedelta) -> timedelta:
    return timedelta(seconds=round(age.total_seconds()))
