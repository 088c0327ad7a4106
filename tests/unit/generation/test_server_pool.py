import pytest

from coordexp.generation.server_pool import ServerAddress, ServerPool
from coordexp.types.errors import ConfigError

ONE, TWO = ServerAddress("http://127.0.0.1:8000/"), ServerAddress("http://10.0.0.7:8001")


def test_a_server_that_waits_for_weights_may_not_be_asked() -> None:
    pool = ServerPool([ONE, TWO], needs_sync=True)
    assert pool.usable() == []
    assert "no weights were pushed yet" in str(pool.describe_lost())

    pool.mark_synced(TWO, version=3)
    assert pool.usable() == [TWO]
    assert pool.needs_sync
    assert pool.state(TWO).version == 3


def test_a_lost_server_comes_back_with_a_push_and_not_before() -> None:
    pool = ServerPool([ONE])
    pool.mark_lost(ONE, "nothing answers there")
    assert pool.usable() == []
    assert "http://127.0.0.1:8000 (nothing answers there)" in str(pool.describe_lost())

    pool.mark_synced(ONE, version=4)
    assert pool.usable() == [ONE]
    assert not pool.needs_sync


def test_another_rank_takes_over_what_was_pushed() -> None:
    pushing, other = ServerPool([ONE, TWO], needs_sync=True), ServerPool([ONE, TWO], needs_sync=True)
    pushing.mark_synced(ONE, version=5)
    other.adopt(pushing.snapshot())
    assert other.usable() == [ONE]
    assert other.state(ONE).version == 5


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "http://127.0.0.1", "ftp://127.0.0.1:8000"])
def test_an_address_is_http_with_a_port(url: str) -> None:
    with pytest.raises(ConfigError, match=r"is no http\(s\) address with a port"):
        ServerAddress(url)


def test_addresses_know_whether_they_are_this_machine() -> None:
    assert ONE.is_loopback
    assert ONE.host == "127.0.0.1"
    assert not TWO.is_loopback


@pytest.mark.parametrize("addresses", [[], [ONE, ONE]])
def test_each_server_once_and_at_least_one(addresses: list[ServerAddress]) -> None:
    with pytest.raises(ConfigError, match="at least one server, each once"):
        ServerPool(addresses)
