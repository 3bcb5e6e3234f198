"""E18x, W18x: entity sources (files, tables and databases)."""

from __future__ import annotations

from policyengine.diagnostics.catalog.entry import DiagnosticDoc

CODES = (
    DiagnosticDoc(
        "E180",
        "an entity source that cannot be read",
        "The file or folder does not exist, is not readable, has an unknown format or is too large. An entity source "
        "is a file `….json`, `….jsonl`, `….csv` or `….toml`, a folder of `.csv` files, or the URL of a database.",
        "",
        "",
    ),
    DiagnosticDoc(
        "E181",
        "a malformed entity file",
        "The file contains text that is not valid JSON, CSV or UTF-8, a row without a type or ID, or an unknown "
        "member. The message names the line, or the JSON member. No row of such a file is used.",
        "",
        "",
    ),
    DiagnosticDoc(
        "E182",
        "invalid CSV columns",
        "A CSV table must have a header with a column `id` and without repeated columns, and each row must have as "
        "many cells as the header. A column `in` is valid only if the policy declares what the entity is in.",
        "",
        "",
    ),
    DiagnosticDoc(
        "E183",
        "a cell that does not have the declared type",
        "The policy declares the type of each attribute, and cells are parsed as that type. An empty cell, or NULL, "
        "means that the attribute is absent.",
        "",
        "",
    ),
    DiagnosticDoc(
        "E184",
        "a duplicate entity",
        "All sources together form one entity store, and each entity may occur in it only once: otherwise it would be "
        "unclear which row applies. An entity type that is looked up must have exactly one lookup, and must not occur "
        "in any other source.",
        "",
        "",
    ),
    DiagnosticDoc(
        "E185",
        "rows of an undeclared entity",
        "A CSV table, and each section of `[directory]`, must be named after the entity whose rows it holds. The "
        "policy declares no entity with this name.",
        "",
        "",
    ),
    DiagnosticDoc(
        "E186",
        "an invalid database mapping",
        "`[directory]` maps entities to tables. For each entity it sets a `table` or a `query` and, where needed, the "
        "column of its `id`, its `attributes`, and what the entity is `in`.",
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
        "All direct and indirect memberships are computed when entities are loaded, and there may be at most 5,000,000 "
        "in all. Entities with the same direct memberships are counted once. A chain of 3,000 teams, each in the one "
        "before, comes close to this limit.",
        "",
        "",
    ),
    DiagnosticDoc(
        "W180",
        "an attribute that no source supplies",
        "A rule reads the attribute, but `policyengine check --entities` finds no row that has the attribute, no "
        "issuer that maps a claim to it and no map that supplies it. Without a row, the attribute is unknown for every "
        "entity, even with `else`, and an unknown condition grants nothing. If a trusted gateway sends the rows with "
        "its requests, allow this warning next to the rule.",
        "",
        "",
        name="unsupplied",
        optional=True,
    ),
    DiagnosticDoc(
        "W181",
        "rows that lack an attribute",
        "A rule reads the attribute, which is declared without `?`, and `policyengine check --entities` finds rows "
        "that lack the attribute. If the attribute is an inherited set, then for each such row it is unknown whether "
        "the set contains a value that no other row holds. `inherited else []` treats a missing set as empty.",
        "",
        "",
        name="lacking-rows",
        optional=True,
    ),
    DiagnosticDoc(
        "W182",
        "an entity that has members but no row",
        "`policyengine check --entities` finds rows that are in an entity which has no row itself. The engine cannot "
        "know what that entity is in, so further memberships of its members, and the sets that these members inherit "
        "from there, are unknown unless other rows supply them.",
        "",
        "",
        name="missing-rows",
        optional=True,
    ),
    DiagnosticDoc(
        "W183",
        "a confirm that too few users of the entities can approve",
        "The rule requires approvals of more users than `policyengine check --entities` finds with its role, or in "
        "its entity: often, the role or the entity is misspelled. Requests that need this approval are never "
        "allowed. Users whose rows come with requests, or are looked up, are not counted; if such users approve, "
        "allow this warning next to the rule.",
        "",
        "",
        name="lacking-approvers",
        optional=True,
    ),
)
