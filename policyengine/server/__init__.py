"""The HTTP server: it accepts questions as JSON or MessagePack, passes them to the engine, and answers in one of these
formats."""

from policyengine.server.app import create_app
from policyengine.server.bearer_tokens import BearerTokenError, TokenFile, read_token_file
from policyengine.server.listeners import ServeError
from policyengine.server.run import serve

__all__ = ["BearerTokenError", "ServeError", "TokenFile", "create_app", "read_token_file", "serve"]
