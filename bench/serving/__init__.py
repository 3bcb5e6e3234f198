"""`serve` and `socket`: our server beside a floor on the same event loop and, over HTTP, beside Cerbos."""
