"""Builders of AST nodes: the parser calls one method for each phrase of `grammar/policy.lark`."""

from __future__ import annotations

from policyengine.syntax.build.declarations import DeclarationBuilder
from policyengine.syntax.build.expressions import ExpressionBuilder
from policyengine.syntax.build.rules import RuleBuilder
from policyengine.syntax.build.tests import ExampleBuilder

__all__ = ["AstBuilder"]


class AstBuilder(DeclarationBuilder, RuleBuilder, ExampleBuilder, ExpressionBuilder):
    """Builds the AST of one source."""
