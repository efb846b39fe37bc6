"""Which statements end the transaction that a handler was lent."""

from __future__ import annotations

import pytest

from pillarbox.consumer.ending import ending_words


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("COMMIT", "COMMIT"),
        ("commit work", "COMMIT"),
        ("  /* why */ -- so\n ROLLBACK", "ROLLBACK"),
        ("rollback and chain", "ROLLBACK"),
        ("END", "END"),
        ("PREPARE  TRANSACTION 'a'", "PREPARE TRANSACTION"),
    ],
)
@pytest.mark.parametrize("dialect", ["postgresql", "sqlite", "mysql", "mariadb"])
def test_what_ends_it_everywhere(statement: str, words: str, dialect: str) -> None:
    assert ending_words(statement, dialect) == words


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE a (b INT)",
        "\n\tCREATE OR REPLACE TABLE a (b INT)",
        "drop table a",
        "TRUNCATE a",
        "ALTER TABLE a ADD c INT",
        "ANALYZE LOCAL TABLE a",
        "LOCK TABLES a WRITE",
        "START TRANSACTION",
        "BEGIN",
        "SET autocommit = 1",
        "SET @@session.autocommit = 1",
        "RENAME TABLE a TO b",
    ],
)
def test_mariadb_commits_before_what_changes_the_schema(statement: str) -> None:
    assert ending_words(statement, "mysql") is not None
    assert ending_words(statement, "mariadb") is not None
    assert ending_words(statement, "postgresql") is None


@pytest.mark.parametrize(
    "statement",
    [
        "ROLLBACK TO SAVEPOINT a",
        "ROLLBACK WORK TO a",
        "SAVEPOINT a",
        "RELEASE SAVEPOINT a",
        "INSERT INTO ends VALUES ('COMMIT')",
        "SELECT 1 -- COMMIT",
        "/* COMMIT */ SELECT 1",
        "UPDATE commits SET a = 1",
        "CREATE TEMPORARY TABLE a (b INT)",
        "DROP TEMPORARY TABLE a",
        "ANALYZE SELECT 1",
        "SET @a = 1",
        "CALL pay(1)",
        "endings",
        "",
    ],
)
def test_what_does_not_end_it(statement: str) -> None:
    assert ending_words(statement, "mariadb") is None
    assert ending_words(statement, "postgresql") is None
