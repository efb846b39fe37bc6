"""The public face is what it was, and importing it is cheap and touches nothing."""

import subprocess
import sys
from pathlib import Path

import pillarbox

SNAPSHOT = Path(__file__).with_name("facade.txt")
DRIVERS = ("sqlite3", "aiosqlite", "asyncpg", "psycopg", "django", "pydantic", "pytest", "hypothesis")


def test_the_public_names_are_those_of_the_snapshot() -> None:
    expected = SNAPSHOT.read_text(encoding="utf-8").split()

    assert sorted(pillarbox.__all__) == expected, "a name was added or removed: is it meant? then edit facade.txt"


def test_every_public_name_is_there_and_documented() -> None:
    undocumented = [name for name in pillarbox.__all__ if not getattr(pillarbox, name).__doc__]

    assert not undocumented


def test_importing_the_library_imports_no_driver() -> None:
    program = f"import sys, pillarbox; print(*(name for name in {DRIVERS!r} if name in sys.modules))"

    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout.split()) == (0, []), done.stderr
