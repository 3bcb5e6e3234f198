"""Grammar phrases to AST nodes, while the machine reads: one function per phrase of `grammar/policy.lark`."""

from __future__ import annotations

from policyengine.syntax.build.declarations import Declarations
from policyengine.syntax.build.examples import Examples
from policyengine.syntax.build.expressions import Expressions
from policyengine.syntax.build.rules import Rules

__all__ = ["Builder"]


class Builder(Declarations, Rules, Examples, Expressions):
    """Builds the AST of one source."""
