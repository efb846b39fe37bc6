"""Run every check that needs no server, two at a time; say clearly which failed."""

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = ROOT / ".venv" / "bin"
CODE = [name for name in ("src", "tests", "benchmarks", "scripts", "examples") if (ROOT / name).is_dir()]

QUICK = ("tests/unit", "tests/property", "tests/contract", "tests/architecture", "tests/history")
"""What needs no server and little time; `make test` runs the rest, and tries more examples of each property."""

# The slowest come first, so that two cores are busy to the end.
CHECKS: dict[str, list[str]] = {
    "tests": ["pytest", "-q", "-n", "2", "--hypothesis-profile=quick", "-m", "not server and not fault", *QUICK],
    "basedpyright": ["basedpyright"],
    "mypy": ["mypy"],
    "imports": ["lint-imports", "--no-logo", "--no-cache"],
    "lint": ["ruff", "check", *CODE],
    "format": ["ruff", "format", "--check", *CODE],
}


def run(command: list[str]) -> tuple[int, float, str]:
    """Run one check; return its exit code, its seconds and all that it printed."""
    started = time.monotonic()
    program, *arguments = command
    done = subprocess.run(
        [str(BIN / program), *arguments],
        cwd=ROOT,
        env={**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.returncode, time.monotonic() - started, done.stdout


def main() -> int:
    """Run the checks, print each as it ends, and return 1 when any failed."""
    started = time.monotonic()
    failed: list[str] = []
    with ThreadPoolExecutor(max_workers=2) as pool:
        running = {pool.submit(run, command): name for name, command in CHECKS.items()}
        for future in as_completed(running):
            name = running[future]
            code, seconds, output = future.result()
            print(f"{'ok    ' if code == 0 else 'FAILED'} {name} ({seconds:.1f} s)", flush=True)
            if code != 0:
                failed.append(name)
                print(output, flush=True)
            elif name == "tests":
                print(output.strip().splitlines()[-1], flush=True)
    print(f"{len(CHECKS)} checks in {time.monotonic() - started:.0f} s: ", end="")
    print(f"FAILED: {', '.join(sorted(failed))}" if failed else "all passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
