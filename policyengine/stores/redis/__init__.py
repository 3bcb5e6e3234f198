"""The store in Redis, Valkey or a Redis Cluster, shared by machines."""
