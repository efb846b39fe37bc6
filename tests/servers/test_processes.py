"""Worker processes of fault tests: started, killed, frozen and ended by pid, with descendants and output."""

from __future__ import annotations

import signal
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from tests.processes import REPOSITORY
from tests.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.processes import PythonProcess, PythonProcesses

FIVE_SECONDS = timedelta(seconds=5)
SOON = timedelta(seconds=15)

COUNTING = """
import itertools, os, signal, sys, time
if os.environ.get("DEAF"):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
else:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
child = os.fork()
line = " ".join(["parent" if child else "child", *sys.argv[1:]]) + os.linesep
os.write(1, line.encode())  # whole: the two share one file
for tick in itertools.count():
    time.sleep(0.01)
    if not child:
        print(tick, flush=True)
"""


@pytest.fixture
def counting(tmp_path: Path, python_processes: PythonProcesses) -> PythonProcess:
    """A process with a child that prints ever more numbers."""
    return start_counting(tmp_path, python_processes)


def start_counting(tmp_path: Path, python_processes: PythonProcesses, **env: str) -> PythonProcess:
    (tmp_path / "counting.py").write_text(COUNTING)
    return python_processes.start("counting", "ü", env={**env, "PYTHONPATH": str(tmp_path)})


async def test_output_of_parent_and_child_is_kept(counting: PythonProcess) -> None:
    await wait_until(lambda: "parent ü" in counting.output and "child ü" in counting.output, within=SOON)


async def test_kill_ends_parent_and_child(counting: PythonProcess) -> None:
    await wait_until(lambda: "child" in counting.output, within=SOON)
    family = counting.family

    counting.kill()

    assert len(family) == 2
    assert not any(member.alive for member in family)
    assert counting.exit_code == -signal.SIGKILL


async def test_a_paused_process_does_nothing_until_it_is_resumed(counting: PythonProcess) -> None:
    await wait_until(lambda: "\n5\n" in counting.output, within=SOON)

    counting.pause()
    assert all(member.at_rest for member in counting.family)
    before = counting.output
    with pytest.raises(AssertionError):
        await wait_until(lambda: counting.output != before, within=timedelta(seconds=0.2))
    assert counting.running

    counting.resume()
    assert not all(member.at_rest for member in counting.family)
    await wait_until(lambda: counting.output != before, within=SOON)


async def test_a_paused_process_can_be_killed(counting: PythonProcess) -> None:
    counting.pause()

    counting.kill()

    assert not counting.running


async def test_a_terminated_process_ends_in_its_own_way(counting: PythonProcess) -> None:
    await wait_until(lambda: "child" in counting.output and "parent" in counting.output, within=SOON)

    counting.terminate()

    assert await counting.exited(within=FIVE_SECONDS) == 7


async def test_a_child_that_outlives_its_parent_is_ended_too(counting: PythonProcess) -> None:
    await wait_until(lambda: "child" in counting.output, within=SOON)
    counting.terminate()
    await counting.exited(within=FIVE_SECONDS)
    orphans = counting.family

    counting.kill()

    assert len(orphans) == 1
    assert not any(orphan.alive for orphan in orphans)
    assert counting.exit_code == 7


async def test_a_process_that_does_not_end_is_reported_with_its_output(
    tmp_path: Path, python_processes: PythonProcesses
) -> None:
    deaf = start_counting(tmp_path, python_processes, DEAF="yes")
    await wait_until(lambda: "parent" in deaf.output, within=SOON)

    deaf.terminate()

    with pytest.raises(AssertionError, match=r"(?s)end of process \d+.*parent ü"):
        await deaf.exited(within=timedelta(seconds=0.2))


async def test_modules_of_the_tests_can_be_started(python_processes: PythonProcesses) -> None:
    process = python_processes.start("tests.servers", "--help")

    assert await process.exited(within=SOON) == 0
    assert "python -m tests.servers" in process.output
    assert (REPOSITORY / "tests").is_dir()


def test_none_outlives_the_test(
    tmp_path: Path, python_processes: PythonProcesses, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = (start_counting(tmp_path, python_processes) for _ in range(2))

    python_processes.end_all()

    assert not first.running
    assert not second.running
    assert "counting-1.log: exit code -9" in capsys.readouterr().out
