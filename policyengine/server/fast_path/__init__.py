"""The fast path: simple requests pass from the server directly to the engine, without the application around it."""
