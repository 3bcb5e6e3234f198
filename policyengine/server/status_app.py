"""What whoever watches the server may ask, on a port of its own and without a token: is it well, and what did it do.

So it answers to its own names and addresses only, also where questions need a token.
"""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.routing import Route

from policyengine.server.handlers import DecisionApi, handle_problem
from policyengine.server.middleware import ExchangeMiddleware
from policyengine.server.problems import ProblemError


def status_app(api: DecisionApi) -> Starlette:
    """Nobody can ask for a decision here."""
    app = Starlette(
        routes=[
            Route("/metrics", api.metrics_for_anybody),
            Route("/healthz", api.healthz),
            Route("/readyz", api.readyz),
        ],
        middleware=[Middleware(ExchangeMiddleware, hosts=api.hosts)],
        exception_handlers=dict.fromkeys((ProblemError, HTTPException), handle_problem),
    )
    app.api = api  # type: ignore[attr-defined]  # as `handle_problem` finds it
    return app
