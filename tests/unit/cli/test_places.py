"""How a program's box is found."""

import sys
from pathlib import Path

import pytest

from pillarbox.cli.places import find_place, load_box
from pillarbox.errors import ConfigurationError
from tests.unit.cli.conftest import Shell

PROGRAM = """
from pillarbox import Pillarbox, event
from dataclasses import dataclass

@event("order.placed", key="order_id")
@dataclass(frozen=True)
class OrderPlaced:
    order_id: str

box = Pillarbox("shop", store="{store}")

@box.on(OrderPlaced, name="notify")
async def notify(order: OrderPlaced) -> None: ...
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", list(sys.path))
    return tmp_path


def write(folder: Path, name: str, text: str) -> None:
    (folder / f"{name}.py").write_text(text, encoding="utf-8")


def test_a_module_of_the_working_directory_is_found(folder: Path) -> None:
    write(folder, "shop_found", PROGRAM.format(store="memory://"))

    assert load_box("shop_found:box").name == "shop"
    assert load_box("shop_found").name == "shop"


@pytest.mark.parametrize(
    ("text", "target", "told"),
    [
        ("", "shop_missing_module:box", "cannot be imported: ModuleNotFoundError"),
        ("x = 1", "shop_no_attribute:box", "has no attribute 'box'"),
        ("box = 1", "shop_no_box:box", "is a int, not a Pillarbox"),
        ("\n1 / 0", "shop_fails:box", "shop_fails.py, line 2)"),
    ],
)
def test_what_is_wrong_with_the_program_is_told(folder: Path, text: str, target: str, told: str) -> None:
    if text:
        write(folder, target.partition(":")[0], text)

    with pytest.raises(ConfigurationError, match="shop_") as refused:
        load_box(target)

    assert told in str(refused.value)


def test_the_channels_of_a_program_are_those_that_it_receives_from_and_sends_to(folder: Path) -> None:
    routed = 'box.include(ContentBasedRouter("r", source="queue:a", default="b"))'
    text = PROGRAM.replace("import Pillarbox", "import ContentBasedRouter, Pillarbox")
    write(folder, "shop_channels", f"{text.format(store='memory://')}\n{routed}\n")

    assert set(find_place("shop_channels", None).channels) == {"topic:order", "queue:a", "queue:b"}


def test_consumers_of_a_program_are_listed_with_mode_and_types(folder: Path, pillarbox: Shell) -> None:
    write(folder, "shop_consumers", PROGRAM.format(store=pillarbox.url))

    done = pillarbox("consumers", "--app", "shop_consumers:box", "--json", store=False)

    assert done.exit_code == 0, done.output
    assert '"mode": "outside"' in done.output
    assert '"types": [\n      "order.placed"\n    ]' in done.output


def test_a_program_with_its_store_in_memory_can_be_looked_at(folder: Path, pillarbox: Shell) -> None:
    write(folder, "shop_memory", PROGRAM.format(store="memory://"))

    done = pillarbox("consumers", "--app", "shop_memory:box", store=False)

    assert done.exit_code == 0, done.output
    assert "shop/notify" in done.output
