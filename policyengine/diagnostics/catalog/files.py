"""E15x: policy files, and the language version they use."""

from policyengine.diagnostics.catalog.entry import DiagnosticDoc

CODES: tuple[DiagnosticDoc, ...] = (
    DiagnosticDoc(
        "E150",
        "an unsupported language version",
        "This engine reads version 1. In another version, the same words could have another meaning.",
        "language 2\nanyone { may GET /health }\n",
        "language 1\nanyone { may GET /health }\n",
    ),
    DiagnosticDoc("E151", "file not found", "The file does not exist, or a link points to a missing file.", "", ""),
    DiagnosticDoc(
        "E152",
        "an unreadable file or folder",
        "The file may contain a guard, so the engine makes no decisions without it. A bundle is refused where a "
        "command needs the text of policies: `check`, `lint`, `test`, `repl`, `record` and `suggest` take the "
        "policies that the bundle was compiled from.",
        "",
        "",
    ),
    DiagnosticDoc(
        "E153",
        "a policy file that is too large",
        "A policy file may have at most 33,554,432 characters of up to four bytes each.",
        "",
        "",
    ),
    DiagnosticDoc(
        "E154",
        "several policy roots in one folder",
        "A file `.policyroot` marks the root of a set of policies, which are loaded together; imports are resolved "
        "from that root. An engine loads one set. `check` and `test` handle the sets of a folder one by one.",
        "",
        "",
    ),
    DiagnosticDoc(
        "E155",
        "an empty policy",
        "The file declares nothing: it is empty, or has only comments, `language`, `package` and `import`. Usually "
        "such a file was truncated, and its guards would silently be missing. Remove the file if it is meant to be "
        "empty.",
        "language 1\npackage shop # what stood here?\n",
        "language 1\npackage shop\nanyone { may GET /health }\n",
    ),
    DiagnosticDoc(
        "E156",
        "a folder without policies",
        "The folder was given along with other policies and contains no `.policy` file. Usually such a folder is not "
        "mounted or was emptied, so its guards are missing.",
        "",
        "",
    ),
)
