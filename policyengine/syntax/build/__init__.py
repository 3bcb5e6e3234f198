"""Grammar phrases to AST nodes, while lark parses: one function per phrase of `grammar/policy.lark`."""

from __future__ import annotations

from policyengine.syntax.build.declarations import Declarations
from policyengine.syntax.build.examples import Examples
from policyengine.syntax.build.expressions import Expressions
from policyengine.syntax.build.phrases import Phrases
from policyengine.syntax.build.rules import Rules

__all__ = ["Builder", "Phrases"]


class Builder(Declarations, Rules, Examples, Expressions):
    """Builds the AST of one source at a time; `source` is set before each parse."""
