"""The decision API over a Unix socket, for sidecars."""
