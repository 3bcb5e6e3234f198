"""The servers that the store tests use."""

from tests.stores.conftest import redis_cluster, redis_server

__all__ = ["redis_cluster", "redis_server"]
