"""Imports an API as a first policy: converts a specification or a list of tools to operations, and these to `.policy`
files.

`openapi` and `mcp_tools` read untrusted documents into the operations of `model`. `policy_writer` turns these into
policies, and `write_project` adds them to the existing files without changing any of them.
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
