"""The private RabbitMQ is private, comes back with its data, and leaves nothing behind."""

from __future__ import annotations

import pytest

from tests.conftest import started
from tests.servers import RabbitMqServer
from tests.servers.processes import name_of


@pytest.mark.server
def test_it_comes_back_and_its_port_mapper_ends_with_it(pytestconfig: pytest.Config) -> None:
    server = RabbitMqServer()
    with started(server, pytestconfig):
        names = {name_of(member.pid) for member in server.process.family}
        before = server.process.family
        server.control("eval", 'rabbit_amqqueue:declare({resource,<<"/">>,queue,<<"kept">>},true,false,[],none,<<>>).')
        server.restart()

        assert "kept" in server.control("list_queues", "name")
        assert not any(member.alive for member in before)
        last = server.process.family

    assert "epmd" in names
    assert not any(member.alive for member in last)
    assert not server.folder.exists()
