"""The servers that the tests of stores use."""

from tests.stores.conftest import redis_server, valkey_server

__all__ = ["redis_server", "valkey_server"]
