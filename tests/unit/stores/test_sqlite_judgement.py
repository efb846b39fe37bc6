"""What the doctor says about facts of an SQLite file."""

from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

import pytest

from pillarbox.control.diagnosis import Severity
from pillarbox.stores.sqlite.diagnosis import SqliteFacts, file_system_of, judge_sqlite
from tests.unit.stores.test_postgresql_judgement import WHOLE

SOUND = SqliteFacts(
    version=(3, 51, 3),
    journal_mode="wal",
    synchronous=2,
    busy_timeout_ms=30_000,
    schema=WHOLE,
    tables={"pillarbox_queue": "CREATE TABLE pillarbox_queue (position INTEGER PRIMARY KEY AUTOINCREMENT)"},
    file="/data/shop.db",
    file_system="ext4",
    complaints=None,
)
MOUNTS = """\
22 1 8:1 / / rw,relatime - ext4 /dev/vda rw
30 22 0:40 / /srv/shared\\040files rw - nfs4 server:/export rw
31 30 0:41 / /srv/shared\\040files/fast rw shared:1 - xfs /dev/vdb rw
broken line
"""


def test_a_sound_file_has_nothing_amiss() -> None:
    assert {one.severity for one in judge_sqlite(SOUND)} == {Severity.OK}


@pytest.mark.parametrize(
    ("change", "code", "severity"),
    [
        ({"version": (3, 40, 1)}, "version", Severity.WARNING),
        ({"journal_mode": "delete"}, "journal-mode", Severity.WARNING),
        ({"file": "", "journal_mode": "memory", "file_system": None}, "in-memory", Severity.NOTICE),
        ({"synchronous": 1}, "synchronous", Severity.WARNING),
        ({"busy_timeout_ms": 0}, "busy-timeout", Severity.WARNING),
        (
            {"tables": {"pillarbox_queue": "CREATE TABLE pillarbox_queue (position INTEGER PRIMARY KEY)"}},
            "autoincrement",
            Severity.ERROR,
        ),
        ({"file_system": "nfs4"}, "file-system", Severity.ERROR),
        ({"complaints": ["row 3 missing from index"]}, "integrity", Severity.ERROR),
    ],
)
def test_what_endangers_messages_is_found(change: dict[str, Any], code: str, severity: Severity) -> None:
    (finding,) = [one for one in judge_sqlite(replace(SOUND, **change)) if one.severity is not Severity.OK]

    assert (finding.code, finding.severity) == (code, severity)
    assert finding.means
    assert finding.do


def test_a_file_that_was_checked_and_is_whole_is_well() -> None:
    codes = {one.code: one.severity for one in judge_sqlite(replace(SOUND, complaints=["ok"]))}

    assert codes["integrity"] is Severity.OK


@pytest.mark.parametrize(
    ("file", "kind"),
    [
        ("/var/shop.db", "ext4"),
        ("/srv/shared files/shop.db", "nfs4"),
        ("/srv/shared files/fast/shop.db", "xfs"),
        ("/srv/shared files-too/shop.db", "ext4"),
    ],
)
def test_the_file_system_is_that_of_the_innermost_mount(file: str, kind: str) -> None:
    assert file_system_of(PurePosixPath(file), MOUNTS) == kind
    assert file_system_of(PurePosixPath(file), "") is None
