"""Somebody's API to a policy to begin with: a specification or a list of tools, to operations, to `.policy` files.

`openapi` and `mcp_tools` read what a stranger wrote; `model` is what both become; `policy_writer` makes policies of it,
which `write_project` puts beside what the author has, without ever changing a line of theirs.
"""

from policyengine.importers.errors import ApiImportError
from policyengine.importers.manifest import previous_server
from policyengine.importers.mcp_tools import read_tools
from policyengine.importers.model import Api, ApiOperation, ApiOperationKind
from policyengine.importers.openapi import read_openapi
from policyengine.importers.write_project import ImportResult, import_policies

__all__ = [
    "Api",
    "ApiImportError",
    "ApiOperation",
    "ApiOperationKind",
    "ImportResult",
    "import_policies",
    "previous_server",
    "read_openapi",
    "read_tools",
]
