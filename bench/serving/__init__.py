"""`serve` and `socket`: our server compared with a floor on the same event loop and, over HTTP, with Cerbos."""
