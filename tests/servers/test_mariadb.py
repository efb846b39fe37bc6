"""The private MariaDB is durable, private and comes back with its data."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.servers import MariaDbServer, ServerError

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def database(private_mariadb_server: MariaDbServer) -> Iterator[str]:
    url = private_mariadb_server.create_database()
    yield url
    private_mariadb_server.drop_database(url)


def test_it_flushes_each_commit_and_logs_rows(private_mariadb_server: MariaDbServer) -> None:
    (found,) = private_mariadb_server.execute(
        "SELECT @@innodb_flush_log_at_trx_commit, @@sync_binlog, @@log_bin, @@binlog_format"
    )
    assert found == ["1", "1", "1", "ROW"]


def test_what_was_committed_survives_a_kill(private_mariadb_server: MariaDbServer, database: str) -> None:
    name = database.rpartition("/")[2]
    private_mariadb_server.execute("CREATE TABLE kept (id INT); INSERT INTO kept VALUES (7)", database=name)
    private_mariadb_server.kill()
    private_mariadb_server.start()

    assert private_mariadb_server.execute("SELECT id FROM kept", database=name) == [["7"]]


def test_a_paused_server_answers_when_it_is_resumed(private_mariadb_server: MariaDbServer) -> None:
    private_mariadb_server.pause()
    private_mariadb_server.resume()

    assert private_mariadb_server.execute("SELECT 1") == [["1"]]


def test_a_refused_statement_says_why(private_mariadb_server: MariaDbServer) -> None:
    with pytest.raises(ServerError, match="no_such_table"):
        private_mariadb_server.execute("SELECT * FROM no_such_table", database="mysql")


def test_a_database_in_use_can_be_dropped(private_mariadb_server: MariaDbServer) -> None:
    pymysql = pytest.importorskip("pymysql")
    url = private_mariadb_server.create_database()
    name = url.rpartition("/")[2]
    connection = pymysql.connect(
        host="127.0.0.1", port=private_mariadb_server.port, user="root", database=name, autocommit=False
    )
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE used (id INT)")
        cursor.execute("INSERT INTO used VALUES (1)")

    private_mariadb_server.drop_database(url)

    assert private_mariadb_server.execute(f"SHOW DATABASES LIKE '{name}'") == []
    connection.close()
