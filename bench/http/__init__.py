"""`serve`: the decision API over HTTP beside a raw ASGI callable on the same server, and beside Cerbos."""
