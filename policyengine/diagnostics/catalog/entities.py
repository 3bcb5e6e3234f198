"""E18x, W18x: entity sources (files, tables and databases)."""

from __future__ import annotations

from policyengine.diagnostics.catalog.entry import DiagnosticDoc

CODES = (
    DiagnosticDoc(
        "E180",
        "an entity source that cannot be read",
        "The file or folder does not exist, is not readable, has an unknown format or is too large. Entities come "
        "from a file `….json`, `….jsonl`, `….csv` or `….toml`, a folder of `.csv` files, or the URL of a database.",
        "",
        "",
    ),
    DiagnosticDoc(
        "E181",
        "a malformed entity file",
        "The message names the line, or the JSON member: text that is not valid JSON, CSV or UTF-8, a row without a "
        "type or id, or an unknown member. No row of such a file is used.",
        "",
        "",
    ),
    DiagnosticDoc(
        "E182",
        "invalid CSV columns",
        "A CSV table has a header with a column `id` and no column twice, and each row has as many cells as the "
        "header. A column `in` is valid only if the policy declares what the entity is in.",
        "",
        "",
    ),
    DiagnosticDoc(
        "E183",
        "a cell of another type than declared",
        "The policy declares the type of each attribute, and cells are parsed as that type. An empty cell or NULL "
        "means that the attribute is absent.",
        "",
        "",
    ),
    DiagnosticDoc(
        "E184",
        "a duplicate entity",
        "Several sources form one entity store, and each entity occurs in one of them, once: otherwise it would be "
        "unclear which row counts. An entity type that is looked up has one lookup and occurs in no other source.",
        "",
        "",
    ),
    DiagnosticDoc(
        "E185",
        "rows of an undeclared entity",
        "A CSV table has the name of the entity whose rows it holds, and so has each section of `[directory]`.",
        "",
        "",
    ),
    DiagnosticDoc(
        "E186",
        "an invalid database mapping",
        "`[directory]` maps entities to tables. Each entity has a `table` or a `query`, the column of its `id`, its "
        "`attributes`, and what it is `in`.",
        "",
        "",
    ),
    DiagnosticDoc(
        "E187",
        "a database that cannot be used",
        "The database is unreachable, refuses the login, lacks a table or column, or is of an unknown kind. The "
        "engine makes no decisions before the first connection; if the connection is lost later, facts from the "
        "database are unknown.",
        "",
        "",
    ),
    DiagnosticDoc(
        "E188",
        "too many memberships",
        "All direct and indirect memberships are computed when entities are loaded: at most 5,000,000 in all, where "
        "entities with the same direct memberships count once. A chain of 3,000 teams, each in the one before, is "
        "about as many.",
        "",
        "",
    ),
    DiagnosticDoc(
        "W180",
        "an attribute that no source supplies",
        "A rule reads the attribute, but `policyengine check --entities` finds no row that has it, no issuer that "
        "maps a claim to it and no map that supplies it. Without a row the attribute is unknown for every entity, "
        "even with `else`, and an unknown condition grants nothing. If a trusted gateway sends the rows with its "
        "requests, allow this warning next to the rule.",
        "",
        "",
        name="unsupplied",
        optional=True,
    ),
    DiagnosticDoc(
        "W181",
        "rows that lack an attribute",
        "A rule reads the attribute, which is declared without `?`, and `policyengine check --entities` finds rows "
        "that lack it. If the attribute is an inherited set, each such row makes membership of any value that no "
        "other row holds unknown. `inherited else []` says that such a row holds nothing.",
        "",
        "",
        name="lacking-rows",
        optional=True,
    ),
    DiagnosticDoc(
        "W182",
        "a missing row of an entity with members",
        "`policyengine check --entities` finds rows that are in an entity without a row. The engine cannot know what "
        "that entity is in, so further memberships of its members, and what they inherit, are unknown unless found "
        "elsewhere.",
        "",
        "",
        name="missing-rows",
        optional=True,
    ),
)
