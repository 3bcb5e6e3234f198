"""E15x: files, and the version of the language they are written in."""

from policyengine.diagnostics.catalog.entry import DiagnosticDoc

CODES: tuple[DiagnosticDoc, ...] = (
    DiagnosticDoc(
        "E150",
        "another version of the language",
        "This engine reads version 1. A policy of another version could mean something else by the same words.",
        "language 2\nanyone { may GET /health }\n",
        "language 1\nanyone { may GET /health }\n",
    ),
    DiagnosticDoc("E151", "no such file", "A file that was named, or that a link points to, is not there.", "", ""),
    DiagnosticDoc(
        "E152",
        "a file or folder that cannot be read",
        "What cannot be read may hold a guard, so nothing is decided without it.",
        "",
        "",
    ),
    DiagnosticDoc(
        "E153", "a file that is too large", "A policy has 33,554,432 characters at most, of four bytes each.", "", ""
    ),
    DiagnosticDoc(
        "E154",
        "several sets of policies in one folder",
        "A file `.policyroot` marks the root of one set of policies: they are loaded together, and imports are found "
        "from there. An engine decides by one set. `check` and `test` take the sets of a folder one by one.",
        "",
        "",
    ),
    DiagnosticDoc(
        "E155",
        "an empty policy",
        "A file that declares nothing (no bytes, or only comments, `language`, `package` and `import`) was more often "
        "cut off than meant: guards that stood in it would be gone without a word. Remove it if nothing belongs there.",
        "language 1\npackage shop # what stood here?\n",
        "language 1\npackage shop\nanyone { may GET /health }\n",
    ),
    DiagnosticDoc(
        "E156",
        "a folder without policies",
        "A folder that is named beside other policies holds no file `….policy`. More often than meant it is not "
        "mounted, or was emptied, and the guards that should lie in it are missing.",
        "",
        "",
    ),
)
