"""A warning of `mcp-gateway` about facts that `--as` does not state, and without which the policies allow the caller
nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, islice
from typing import TYPE_CHECKING

from policyengine.cli.name_checks import all_grants
from policyengine.runtime.format_values import format_value

if TYPE_CHECKING:
    from policyengine.engine import Engine
    from policyengine.integrations.enforcement_point import Facts
    from policyengine.kernel import Kernel

MAX_QUESTIONS = 10  # maximum number of endpoints to ask the policies about
MAX_ISSUERS = 5
MAX_USERS = 2
MAX_EXPLANATIONS = 200
NO_FACTS: Mapping[str, str] = {}
SAMPLE_NAME = "x"


def missing_facts_warning(engine: Engine, server: str, said: Mapping[str, str]) -> str | None:
    """Return a warning if the policies may allow the caller something only if `--as` states more; otherwise None."""
    probe = CallerProbe(engine, list(islice(sample_questions(engine.kernel, server), MAX_QUESTIONS)), said)
    if not probe.questions or probe.may_use():
        return None
    missing = [word for word in ("issuer", "user", "scopes") if word not in said]
    for count in range(1, len(missing) + 1):
        for words in combinations(missing, count):
            issuers = probe.helpful_issuers(words)
            if issuers is not None:
                return describe(server, said, words, issuers)
    return None


@dataclass(eq=False)
class CallerProbe:
    """Asks the policies about a caller with further facts; nothing is recorded. `left` is the number of questions that
    may still be asked; it is limited because each question explains a decision.
    """

    engine: Engine
    questions: Sequence[Facts]
    said: Mapping[str, str]
    left: int = MAX_EXPLANATIONS

    def helpful_issuers(self, words: Sequence[str]) -> list[str] | None:
        """Return the issuers with which the caller may use something if `words` are stated, too; an empty list if
        `issuer` is not one of `words`; None if `words` do not help.
        """
        pending = ["credential.scopes"] if "scopes" in words else []
        users = [{"user": name} for name in sample_users(self.engine.kernel)] if "user" in words else [{}]
        known: list[dict[str, str]] = [{}]
        if "issuer" in words:
            known = [{"issuer": name} for name in islice(sorted(self.engine.kernel.issuers), MAX_ISSUERS)]
        helpful = [issuer for issuer in known if any(self.may_use({**issuer, **user}, pending) for user in users)]
        return [issuer["issuer"] for issuer in helpful if issuer] if helpful else None

    def may_use(self, more: Mapping[str, str] = NO_FACTS, pending: Sequence[str] = ()) -> bool:
        """Return whether the policies might allow one of the questions."""
        from policyengine.integrations.mcp.gateway import parse_caller_facts
        from policyengine.integrations.mcp.methods import pending_http_facts

        caller = parse_caller_facts({**self.said, **more})
        unknown = [*pending, *pending_http_facts(caller).get("pending", ())]  # type: ignore[misc]  # it is a list
        return any(
            self._might_pass({**caller, **one, "pending": [*unknown, *one["pending"]]})  # type: ignore[misc]
            for one in self.questions
        )

    def _might_pass(self, question: Facts) -> bool:
        from policyengine.integrations.mcp.methods import might_pass

        self.left -= 1
        return self.left >= 0 and might_pass(self.engine.explain(question).decision)


def sample_users(kernel: Kernel) -> list[str]:
    """Return some users that the policies name, and a user that they do not name."""
    from policyengine import kernel as k

    named = (block.who.name for block in kernel.users if isinstance(block.who, k.ExactName))
    return [*islice(named, MAX_USERS), SAMPLE_NAME]


def sample_questions(kernel: Kernel, server: str) -> Iterator[Facts]:
    """Yield a question without a caller for each grant of a tool of the server, or of an action on an MCP entity."""
    from policyengine import kernel as k

    openings = (opening.pattern for grant in all_grants(kernel) for opening in grant.openings)
    for pattern in dict.fromkeys(openings):
        if isinstance(pattern, k.ToolPattern) and (name := sample_tool(pattern.glob, server)) is not None:
            yield {"tool": {"server": server, "name": name}, "pending": ["args"]}
        elif isinstance(pattern, k.ActionPattern):
            yield {
                "action": {"name": pattern.verb}, "resource": {"type": pattern.type},
                "context": {"server": server}, "pending": ["args", "resource.id"],
            }  # fmt: skip


def sample_tool(glob: str, server: str) -> str | None:
    """Return the name of a tool of the server that matches the glob; None if no tool can match."""
    from policyengine.runtime.globs import Glob

    name = glob.rpartition("/")[2].replace("*", SAMPLE_NAME)
    return name if Glob(glob).matches(f"{server}/{name}") else None


def describe(server: str, said: Mapping[str, str], words: Iterable[str], issuers: Sequence[str]) -> str:
    options = [f"`--as issuer={issuers[0] if len(issuers) == 1 else 'NAME'}`"] if issuers else []
    options += [f"`--as {word}={'SCOPE' if word == 'scopes' else 'NAME'}`" for word in words if word != "issuer"]
    which = f" (one of {', '.join(f'`{one}`' for one in issuers)})" if len(issuers) > 1 else ""
    caller = f"agent {format_value(said['agent'])}" if "agent" in said else "the caller"
    return (
        f"{caller} may use nothing of server {format_value(server)} with these facts: no grant applies without "
        f"{' and '.join(options)}{which}"
    )
