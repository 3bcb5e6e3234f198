"""Documentation of what is wrong with what says who is who: files, tables and databases."""

from __future__ import annotations

from policyengine.diagnostics.catalog.entry import DiagnosticDoc

CODES = (
    DiagnosticDoc(
        "E180",
        "entities that cannot be read",
        "A file or folder that is not there, may not be read, is of no known kind, or is larger than is read. "
        "Entities are a file `….json`, `….jsonl`, `….csv` or `….toml`, a folder of `.csv`, or the URL of a database.",
        "",
        "",
    ),
    DiagnosticDoc(
        "E181",
        "a file of entities that is not well formed",
        "What is wrong stands with its line, or with the member of the JSON: text that is no JSON, CSV or UTF-8, a row "
        "without type or id, a member that means nothing. Nothing of such a file is used.",
        "",
        "",
    ),
    DiagnosticDoc(
        "E182",
        "columns that do not fit",
        "A table of CSV has a header with a column `id`, each column once, and in each row as many cells. "
        "`in` stands only where the policy says what an entity is in.",
        "",
        "",
    ),
    DiagnosticDoc(
        "E183",
        "a cell of another type than is declared",
        "The policy declares what an attribute is, and the cell is read as that. An empty cell, or NULL, is no value: "
        "the attribute is absent then.",
        "",
        "",
    ),
    DiagnosticDoc(
        "E184",
        "an entity that is given twice",
        "Several sources make one directory, and each entity stands in one of them, once: which of two rows counts "
        "would be anybody's guess. A type that is looked up is looked up in one place, and stands in no other.",
        "",
        "",
    ),
    DiagnosticDoc(
        "E185",
        "rows of an entity that the policy does not declare",
        "A table of CSV is named as the entity whose rows it holds, and so is a part of `[directory]`.",
        "",
        "",
    ),
    DiagnosticDoc(
        "E186",
        "a mapping of a database that cannot be used",
        "`[directory]` says which tables hold which entities: for each a `table` or a `query`, the column of the `id`, "
        "`attributes`, and what they are `in`.",
        "",
        "",
    ),
    DiagnosticDoc(
        "E187",
        "a database that cannot be used",
        "It is not reached, does not let the user in, lacks a table or a column, or is of a kind that is not known. "
        "Nothing is decided before it was reached once; when it is lost later its facts are unknown.",
        "",
        "",
    ),
    DiagnosticDoc(
        "E188",
        "too many memberships",
        "What an entity is in, directly or through others, is listed when it is loaded: 5,000,000 in all, where those "
        "that are directly in the same count once. A chain of 3,000 teams, each in the one before, is about as many.",
        "",
        "",
    ),
    DiagnosticDoc(
        "W180",
        "an attribute that nothing supplies",
        "A rule reads the attribute, and `policyengine check --entities` finds no row that has it, no issuer that maps "
        "a claim to it and no map that gives it. Without a row it is unknown, for everybody and through `else`, and "
        "unknown opens nothing. Where a trusted gateway sends the rows with its requests, allow it beside the rule.",
        "",
        "",
        name="unsupplied",
        optional=True,
    ),
    DiagnosticDoc(
        "W181",
        "rows that lack an attribute",
        "A rule reads the attribute, it is declared without `?`, and `policyengine check --entities` finds rows that "
        "lack it. Of an inherited set each such row leaves unknown what no other one holds, unless `inherited else []` "
        "says that it holds nothing then.",
        "",
        "",
        name="lacking-rows",
        optional=True,
    ),
    DiagnosticDoc(
        "W182",
        "an entity without a row that others are in",
        "`policyengine check --entities` finds rows that are in something of which there is no row. What that one is "
        "in, nobody knows: so membership of the others, and what they inherit, is unknown where it is not found.",
        "",
        "",
        name="missing-rows",
        optional=True,
    ),
)
