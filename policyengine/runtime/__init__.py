"""Runtime data of decisions and small pure helpers, without parser, server, clock or store."""
