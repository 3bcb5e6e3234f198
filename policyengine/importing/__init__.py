"""Somebody's API to a policy to begin with: a specification or a list of tools, to operations, to `.policy` files.

`openapi` and `tools` read what a stranger wrote; `model` is what both become; `writing` makes policies of it, which
`project` puts beside what the author has, without ever changing a line of theirs.
"""

from policyengine.importing.model import Api, Kind, Operation
from policyengine.importing.openapi import read_openapi
from policyengine.importing.problems import ImportProblem
from policyengine.importing.project import Outcome, bring
from policyengine.importing.remembered import remembered_server
from policyengine.importing.tools import read_tools

__all__ = [
    "Api",
    "ImportProblem",
    "Kind",
    "Operation",
    "Outcome",
    "bring",
    "read_openapi",
    "read_tools",
    "remembered_server",
]
