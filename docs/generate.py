"""Write the pictures and the tables of the documentation; with `--check` only compare."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from runpy import run_path
from typing import Any

from policyengine import vocabulary
from policyengine.audit.query.fields import COMPUTED, FIELDS
from policyengine.cli.app import COMMANDS, build_program
from policyengine.cli.settings.registry import SETTINGS, SettingSpec, setting_traits
from policyengine.cli.settings.sections import McpServerSettings, WebhookSettings
from policyengine.diagnostics.catalog import CODES, CODES_BY_NAME
from policyengine.diagnostics.catalog.entry import DiagnosticDoc
from policyengine.identity.config.setting_docs import setting_docs as of_identity
from policyengine.identity.issue.errors import ISSUANCE_REFUSAL_INFO as UNISSUED
from policyengine.kernel.binary_relations import RELATIONS
from policyengine.lint.dead_rules import DECIDED_EXAMPLES
from policyengine.runtime.credential_errors import REFUSAL_INFO
from policyengine.testcases.expected_details import DETAIL_MEMBERS
from policyengine.typesystem import Type

DOCS = Path(__file__).parent
WORDS: dict[str, Any] = build_program().commands
APPLICATION: dict[str, Any] = {
    name: WORDS[name.split()[0]].commands[name.split()[1]] if " " in name else WORDS[name] for name in COMMANDS
}


MEASUREMENTS = run_path(str(DOCS / "measurements.py"))
MEASURED = (
    "on",
    "decisions",
    "kinds",
    "applications",
    "first",
    "doors",
    "ways",
    "records",
    "approvals",
    "targets",
    "summary",
)


def cell(text: object) -> str:
    return str(text).replace("|", "\\|").replace("\n", " ")


def table(head: str, rows: list[str]) -> str:
    rule = "|".join("---" for _ in head.strip("| ").split("|"))
    return "\n".join([head, f"|{rule}|", *rows])


def facts() -> str:
    rows = []
    for fact in vocabulary.FACTS:
        rows.append(f"| `{fact.name}` | `{fact.type}`{' ?' if fact.optional else ''} | {cell(fact.doc)} |")
    rows += [f'| `{".".join(path)}["…"]` | `string` ? | {cell(doc)} |' for path, doc in vocabulary.STRING_MAPS.items()]
    rows += [f"| `{root}.*` | declared | {cell(doc)} |" for root, doc in vocabulary.OPEN_ROOTS.items()]
    rows.append("| `user`, `agent`, `tool`, `resource` | a reference | the entity itself; `.id` and its attributes |")
    return table("| fact | type (`?`: may be absent) | meaning |", rows)


def relations() -> str:
    rows = [
        f"| `{row.word or row.operator}` | {row.operands.value} | {cell(row.doc)} | `{cell(row.example)}` |"
        for row in RELATIONS.values()
    ]
    return table("| relation | between | holds when | example |", rows)


def signature(function: vocabulary.BuiltInFunction) -> str:
    def word(type_: Type | str) -> str:
        return str(type_)

    given = ", ".join(f"{name}: {word(type_)}" for name, type_ in function.parameters)
    return f"{function.name}({given}) → {word(function.result)}"


def functions() -> str:
    rows = [f"| `{cell(signature(f))}` | {cell(f.doc)} | `{cell(f.example)}` |" for f in vocabulary.FUNCTIONS]
    return table("| function | meaning | example |", rows)


def decided() -> str:
    return table("| case | example |", [f"| {cell(name)} | `{cell(example)}` |" for name, example in DECIDED_EXAMPLES])


def details() -> str:
    rows = [f"| `{one.name}: {cell(one.example)}` | {cell(one.doc)} |" for one in DETAIL_MEMBERS.values()]
    return table("| detail | meaning |", rows)


def refusals() -> str:
    rows = [f"| `{one}` | {cell(known.words)} | `{known.error}` |" for one, known in REFUSAL_INFO.items()]
    return table("| code | message | error in the challenge |", rows)


def unissued() -> str:
    rows = [f"| `{one}` | {cell(known.words)} | `{known.error}` |" for one, known in UNISSUED.items()]
    return table("| code | message | OAuth error |", rows)


def identity_settings() -> str:
    rows = [f"| `[{one.section}]` `{one.key}` | {cell(one.words)} | {cell(one.default)} |" for one in of_identity()]
    return table("| setting | meaning | default |", rows)


def diagnostics() -> str:
    head = (
        "# Diagnostics\n\nEvery finding of the checker has a stable code. Codes that begin with E are errors; codes "
        "that begin with W are warnings. `policyengine explain-code CODE` prints the same text. This page is generated "
        "from `policyengine/diagnostics/catalog/`.\n"
    )
    return head + "".join(page(CODES[code]) for code in sorted(CODES))


def page(code: DiagnosticDoc) -> str:
    name = f" Rule `{code.name}`{', reported by `policyengine lint`' if code.opinion else ''}." if code.name else ""
    heading = f"\n## {code.code}: {code.title}\n\n{code.explanation}{name}\n"
    if not code.bad:
        return heading  # an example would fill pages
    bad, good = (f"```policy\n{text.strip()}\n```\n" for text in (code.bad, code.good))
    return f"{heading}\n<!-- {'lint' if code.opinion else 'error'}: {code.code} -->\n{bad}\nBetter:\n\n{good}"


def rules() -> str:
    rows = [
        f"| `{code.name}` | {code.code} | {cell(code.title)}{' · optional' if code.optional else ''} "
        f"| {'lint' if code.opinion else 'check'} |"
        for code in sorted(CODES_BY_NAME.values(), key=lambda code: code.code)
    ]
    return table("| rule | code | finds | command |", rows)


# Options that override a setting but do not take their default from it.
OVERRIDING_OPTIONS = {
    **{
        ("observe", key): (f"serve --observe-{word}", f"mcp-gateway --observe-{word}")
        for key, word in (("until", "until"), ("packages", "package"), ("endpoints", "endpoint"))
    },
    **{("lint", key): (f"lint --{key}",) for key in ("select", "extend", "ignore", "strict")},
    **{("test", key): (f"test --{key}",) for key in ("jobs", "seed")},
    ("coverage", "fail_under"): ("test --fail-under",),
}


def option_of(setting: SettingSpec) -> str:
    """Return the options of a setting on the command line, such as `serve --port`."""
    found = [f"`{option}`" for option in OVERRIDING_OPTIONS.get(setting.name, ())]
    for command, parameter in setting.options:
        if command == "doctor":  # it takes those of `serve`
            continue
        given = inspect.signature(COMMANDS[command], eval_str=True).parameters[parameter].annotation.__metadata__[0]
        first = next(one for one in (given.default, *given.param_decls) if str(one).startswith("--"))
        found.append(f"`{command} {first.partition('/')[0]}`")
    return ", ".join(found)


def settings() -> str:
    rows = [
        f"| `[{one.section}]` `{one.key}` | {cell(one.doc)} | {cell(one.default)} | {option_of(one)} |"
        for one in SETTINGS
    ]
    rows += [
        f"| `[webhooks.NAME]` `{key}` | {cell(field.description or '')} | {cell(setting_traits(field).default)} | |"
        for key, field in WebhookSettings.model_fields.items()
    ]
    rows += [
        f"| `[mcp-servers.NAME]` `{key}` | {cell(field.description or '')} | {cell(setting_traits(field).default)} | |"
        for key, field in McpServerSettings.model_fields.items()
    ]
    return table("| setting | meaning | default | option |", rows)


def commands() -> str:
    rows = [
        f"| [`{name}`](#{name.replace(' ', '-')}) | {cell(command.help.partition(chr(10))[0])} |"
        for name, command in APPLICATION.items()
    ]
    return table("| command | what it does |", rows)


def options(name: str) -> str:
    command = APPLICATION[name]
    context = command.context_class(command, info_name=name)
    records = [parameter.get_help_record(context) for parameter in command.params]
    rows = [f"| `{cell(words)}` | {cell(option_meaning(meaning))} |" for words, meaning in records]
    return table("| argument or option | meaning |", rows)


def option_meaning(meaning: str) -> str:
    """Return the meaning with Typer's additions in parentheses, such as `(default: 10m)`."""
    words, bracket, added = meaning.partition("  [")
    if not bracket:
        return meaning
    return f"{words} ({added.rstrip(']').replace(']  [', '; ')})"


def audit_fields() -> str:
    known = {**{name: field.meaning for name, field in FIELDS.items()}, **COMPUTED}
    return table("| field | meaning |", [f"| `{name}` | {cell(meaning)} |" for name, meaning in known.items()])


PARTS: dict[str, Callable[[], str]] = {
    "audit_fields": audit_fields,
    "commands": commands,
    **{f"options_{re.sub('[- ]', '_', name)}": partial(options, name) for name in APPLICATION},
    "facts": facts,
    "functions": functions,
    "relations": relations,
    "decided": decided,
    "rules": rules,
    "details": details,
    "settings": settings,
    "refusals": refusals,
    "unissued": unissued,
    "identity_settings": identity_settings,
    **{f"measured_{name}": MEASUREMENTS[name] for name in MEASURED},
}


def filled(text: str) -> str:
    """Return the text with each generated part regenerated."""

    def part(match: re.Match[str]) -> str:
        return f"<!-- generated: {match[1]} -->\n{PARTS[match[1]]()}\n<!-- end -->"

    return re.sub(r"<!-- generated: (\w+) -->\n.*?<!-- end -->", part, text, flags=re.DOTALL)


def pages() -> dict[Path, str]:
    with_parts = "cli language lint test-language configuration identity issuing performance audit-query".split()
    named = [DOCS.parent / "README.md", *(DOCS / f"{name}.md" for name in with_parts)]
    return {
        **{page: filled(page.read_text(encoding="utf-8")) for page in named},
        DOCS / "diagnostics.md": diagnostics(),
        **pictures(),
    }


def pictures() -> dict[Path, str]:
    drawn = run_path(str(DOCS / "pictures.py"))
    return {**{DOCS / f"{name}.svg": drawn["svg"](name) for name in drawn["PICTURES"]}, **MEASUREMENTS["pictures"]()}


def main(check: bool) -> int:
    stale = [path for path, text in pages().items() if not path.exists() or path.read_bytes().decode() != text]
    for path in stale:
        if check:
            print(f"{path.name} is out of date: run `make docs`")
        else:
            path.write_bytes(pages()[path].encode())
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
