"""Write the orders that ship with the demo: always the same ones, about 2 % of them invalid on purpose."""

import json
import random
import sys
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

TARGET = Path(__file__).resolve().parent.parent / "src" / "pillarbox" / "demo" / "orders.jsonl"
COUNT = 1_200

NAMES = [
    "Zoë Ångström", "José Núñez", "Łukasz Żółć", "Dvořák Přemysl", "Søren Kjær",
    "Þórunn Guðmundsdóttir", "İrem Şahin", "Nguyễn Thị Ánh", "Ольга Щербакова",
    "Їжакевич Ґалаґан", "Γιώργος Παπαδόπουλος", "Հայկ Հովհաննիսյան",
    "გიორგი ბერიძე", "محمد عبد الله", "فاطمه رضایی", "שרה כהן‎", "यश्वी शर्मा",
    "বৃষ্টি সেন", "ਗੁਰਪ੍ਰੀਤ ਸਿੰਘ", "தமிழ்ச்செல்வி", "ಕನ್ನಡ ರಾವ್",
    "สมชาย ใจดี", "ເດືອນ ແສງ", "မြင့်မြင့်", "ສົມສະໄໝ", "ពៅ សុខា",
    "王小明", "陳怡君", "田中 さくら", "ガーデン・ケン", "김민준", "𠮷野 家", "ᠪᠠᠲᠤ", "አበበ በቀለ",
    "Ὀδυσσεύς", "Zoe\u0308 A\u030angstro\u0308m", "Ṩ́̇élène", "👩‍🚀 Ada", "🦊🇳🇴 Rev",
    "👨‍👩‍👧‍👦 Family Büro", "O'Brien \"Bob\" & Søn; DROP TABLE", "Ann\u200bZero", "Ltd. ﷽",
    "Smith", "Jean-Luc d’Été", "Ye",
]  # fmt: skip
SKUS = [f"{kind}-{number:02}" for kind in ("TEAPOT", "KETTLE", "LAMP", "STAMP") for number in range(1, 7)]
LIMITED = ["LIMITED-RED", "LIMITED-PENNY"]
ZONES = [UTC, timezone(timedelta(hours=9)), timezone(timedelta(hours=5, minutes=45)), timezone(-timedelta(hours=8))]
FIRST = datetime(2025, 3, 1, 8, 0, tzinfo=UTC)


def order(number: int, dice: random.Random) -> dict[str, object]:
    """Return one valid order."""
    sku = dice.choice(LIMITED) if dice.random() < 0.05 else dice.choice(SKUS)
    quantity = dice.choice((1, 1, 1, 2, 2, 3))
    cents = dice.randint(199, 45_000) * quantity if dice.random() > 0.03 else dice.randint(200_001, 900_000)
    amount = {"total_cents": cents} if dice.random() < 0.3 else {"total": f"{cents // 100}.{cents % 100:02}"}
    return {
        "order_id": f"o-{number:05}",
        "customer": dice.choice(NAMES),
        "priority": dice.choices(("EXPRESS", "STANDARD", "ECONOMY"), (2, 5, 3))[0],
        "sku": sku,
        "quantity": quantity,
        **amount,
        "placed_at": (FIRST + timedelta(seconds=7 * number)).astimezone(dice.choice(ZONES)).isoformat(),
    }


def spoiled(valid: dict[str, object], how: int) -> str:
    """Return the line of an order that is invalid in the way number ``how``."""
    other = {name: value for name, value in valid.items() if name not in ("total", "total_cents")}
    wrong: list[dict[str, object] | str] = [
        {name: value for name, value in valid.items() if name != "order_id"},
        {**other, "total": "-12.50"},
        {**other, "total": float("nan")},
        {**valid, "placed_at": "2025-03-01T09:15:00"},
        {**valid, "order_id": "o-00001"},
        json.dumps(valid, ensure_ascii=False)[:-30],
        {**valid, "customer": "Half a \ud83d pillar"},
        {**valid, "customer": "long " * 5_000},
        "",
        {**valid, "customer": ""},
        {**valid, "priority": "URGENT"},
        {**valid, "quantity": 0},
    ]
    chosen = wrong[how % len(wrong)]
    return chosen if isinstance(chosen, str) else json.dumps(chosen, ensure_ascii=how % len(wrong) == 6)


def lines() -> list[str]:
    """Return the lines of the file."""
    dice = random.Random(20250301)
    made: list[str] = []
    for number in range(1, COUNT + 1):
        valid = order(number, dice)
        invalid = number % 50 == 25
        made.append(spoiled(valid, number // 50) if invalid else json.dumps(valid, ensure_ascii=False))
    return made


def main() -> int:
    """Write the file, or with ``--check`` compare it."""
    text = "\n".join(lines()) + "\n"
    if "--check" in sys.argv[1:]:
        return 0 if TARGET.read_text(encoding="utf-8") == text else 1
    TARGET.write_text(text, encoding="utf-8")
    print(f"{TARGET.name}: {COUNT} lines")
    return 0


if __name__ == "__main__":
    sys.exit(main())
