"""The servers that the tests of stores use."""

from tests.stores.conftest import redis_cluster, redis_server

__all__ = ["redis_cluster", "redis_server"]
