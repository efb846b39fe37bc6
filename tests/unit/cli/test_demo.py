"""``pillarbox demo`` hands its options on and ends with the demo's exit code."""

from pathlib import Path

import pytest

from pillarbox.demo import DemoOptions
from tests.unit.cli.conftest import Shell


def test_the_options_reach_the_demo(pillarbox: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[DemoOptions] = []

    def run_demo(options: DemoOptions) -> int:
        asked.append(options)
        return 3

    monkeypatch.setattr("pillarbox.demo.run_demo", run_demo)
    orders = tmp_path / "orders.jsonl"
    orders.touch()

    done = pillarbox("demo", "--chaos", "--seed", "7", "--json", "--orders", str(orders), "--broker", "memory://")

    assert done.exit_code == 3
    assert asked == [
        DemoOptions(store=pillarbox.url, broker="memory://", orders=orders, chaos=True, seed=7, as_json=True)
    ]
