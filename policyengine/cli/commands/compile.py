"""`policyengine compile`: compile policies into one file that loads quickly, and optionally sign it."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from policyengine import __version__
from policyengine.bounded_files import missing_file_hint
from policyengine.cli.errors import CommandError, file_error, policy_error
from policyengine.cli.load_engine import BUNDLE, load_engine
from policyengine.cli.options.common import PoliciesOrBundle, TextOrJson, TrustedKeys
from policyengine.cli.output.engine_summary import count_rules
from policyengine.cli.output.terminal import OutputFormat, Screen, print_json, show_progress
from policyengine.plurals import pluralize

if TYPE_CHECKING:
    from policyengine.compiler.bundle.file import PolicyBundle
    from policyengine.compiler.bundle.signature import BundleSigningKey
    from policyengine.engine import Engine
    from policyengine.source import Source


def compile_policies(
    paths: PoliciesOrBundle,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="The bundle to write, `….policybundle`.", show_default=False
        ),
    ] = None,
    key: Annotated[
        Path | None,
        typer.Option("--key", metavar="PEM", help="Sign with this private Ed25519 key.", show_default=False),
    ] = None,
    show: Annotated[
        bool, typer.Option("--show", help="Print the rules that decide at each endpoint, and write nothing.")
    ] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Check that the rules of a bundle match its policy texts.")
    ] = False,
    trust: TrustedKeys = None,
    format: TextOrJson = OutputFormat.TEXT,
) -> int:
    """Compile policies into one bundle.

    The bundle decides as its policies do and loads without parsing and checking them again. The same policies always
    compile to the same file. The file contains the text of the policies, because reasons cite it, but no tests from
    `…_test.policy`. If PATH is a bundle, it is verified and written again: use this to sign it on another machine.

    `--verify` reads every rule of a bundle and compiles the policy texts in it again: the results must be equal.

    Exit code 0: the bundle was written or verified, or the rules were printed; 1: a policy, the bundle or the key has
    errors, the rules of the bundle differ from its texts, or the file cannot be written.

    \b
    Example:
      policyengine compile payments/ -o payments.policybundle
      policyengine compile payments/ -o payments.policybundle --key private.pem
      policyengine compile payments.policybundle --verify --trust public.pem
      policyengine compile payments/ --show
    """
    if [output is not None, show, verify].count(True) != 1:
        raise CommandError("usage", "pass one of `-o FILE`, `--show` and `--verify`", code=2)
    if verify:
        return _verify_bundle(paths, trust, format)
    signing = None if key is None else _signing_key(key)
    is_bundle = len(paths) == 1 and paths[0].suffix == BUNDLE
    if output is not None and is_bundle:
        _verified_bundle(paths[0], trust)
    engine = load_engine(paths, None, trust)
    if output is None:
        _print_program(engine, format)
        return 0
    facts = _compile_bundle(engine, output, signing, _policy_texts(engine, paths))
    if output.suffix != BUNDLE:
        message = f"commands accept a bundle only if its name ends in `{BUNDLE}`"
        Screen(sys.stderr).warn(message)
    if format is OutputFormat.JSON:
        print_json(facts)
    else:
        done = "compiled" if not is_bundle else "verified and signed" if key is not None else "verified and copied"
        _print_summary(facts, done)
    return 0


def _print_program(engine: Engine, format: OutputFormat) -> None:
    with show_progress("describing the rules at each endpoint"):
        program = engine.describe_program()
    if format is OutputFormat.JSON:
        print_json(program.to_dict())
        return
    screen = Screen()
    for line in program.lines():
        screen.line(line)


def _policy_texts(engine: Engine, paths: Sequence[Path]) -> Sequence[Source]:
    """Return the texts of all policy files; an engine from a bundle does not keep them."""
    from policyengine.compiler.bundle.file import read_bundle

    return engine.sources or read_bundle(paths[0]).sources


def _compile_bundle(
    engine: Engine, output: Path, key: BundleSigningKey | None, sources: Sequence[Source]
) -> dict[str, Any]:
    """Write the bundle and return a summary of it."""
    from policyengine.compiler.bundle.file import decode_bundle, write_bundle

    with show_progress("compiling the policies"):
        data = write_bundle(engine.kernel, __version__, key, sources)
    _write(output, data)
    return {
        "file": str(output),
        "bytes": len(data),
        "packages": list(engine.packages),
        "rules": count_rules(engine.kernel, engine.decider.tree),
        "revision": engine.revision,
        "digest": f"sha256:{decode_bundle(data).digest}",
        "signed_by": None if key is None else key.id,
        "warnings": len(engine.warnings),
    }


def _verified_bundle(path: Path, trust: Sequence[Path] | None) -> tuple[PolicyBundle, dict[str, Any]]:
    """Return a bundle whose rules match its policy texts, and a summary of it. Raises CommandError for any
    other bundle.
    """
    from policyengine.compiler.bundle.consistency import find_difference
    from policyengine.compiler.bundle.file import read_bundle
    from policyengine.diagnostics.model import PolicyError

    try:
        with show_progress("verifying the bundle"):
            bundle = read_bundle(path, trust)
            difference = find_difference(bundle)
    except PolicyError as error:
        raise policy_error(error) from None
    facts: dict[str, Any] = {
        "file": str(path),
        "packages": list(bundle.kernel.packages),
        "rules": count_rules(bundle.kernel, bundle.tree),
        "revision": bundle.kernel.revision,
        "digest": f"sha256:{bundle.digest}",
        "signed_by": list(bundle.signed_by),
    }
    if difference is not None:
        hint = "do not load it: `policyengine compile` did not write it"
        message = f"the rules of `{path}` differ from its policy texts: {difference}"
        raise CommandError("bundle", message, hint, tuple(facts.items()))
    return bundle, facts


def _verify_bundle(paths: Sequence[Path], trust: Sequence[Path] | None, format: OutputFormat) -> int:
    """Compare the rules of a bundle with its policy texts. Raises CommandError if they differ."""
    if len(paths) != 1 or paths[0].suffix != BUNDLE:
        raise CommandError("usage", f"`--verify` needs one bundle: `….{BUNDLE[1:]}`", code=2)
    bundle, facts = _verified_bundle(paths[0], trust)
    if format is OutputFormat.JSON:
        print_json(facts)
        return 0
    screen = Screen()
    rules, packages = pluralize(facts["rules"], "rule"), ", ".join(facts["packages"])
    screen.line(f"verified: {facts['file']} has exactly the {rules} of its policy texts, {packages}")
    rows = [(name, facts[name]) for name in ("revision", "digest")]
    rows += [("signed by", one) for one in bundle.signed_by]
    if trust is None:
        rows.append(("signed by", "not checked: name a trusted key with `--trust FILE`"))
    screen.table([(f"{name}:", value) for name, value in rows])
    return 0


def _signing_key(path: Path) -> BundleSigningKey:
    from policyengine.compiler.bundle.signature import BundleSigningKey, KeyFileError

    try:
        return BundleSigningKey.read(path)
    except KeyFileError as error:
        hint = error.hint or (None if path.exists() else missing_file_hint(path, FileNotFoundError()))
        raise CommandError("key", f"`{error.file}`: {error.message}", hint, (("file", error.file),)) from None


def _write(output: Path, data: bytes) -> None:
    """Write the bundle atomically. Raises CommandError, also if the file to replace is not a bundle."""
    try:
        _refuse_to_replace(output)
        target = output.resolve()
        new = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            with new.open("xb") as file:
                file.write(data)
            new.replace(target)
        finally:
            new.unlink(missing_ok=True)
    except OSError as error:
        raise file_error(output, error) from None


def _refuse_to_replace(output: Path) -> None:
    """Raise CommandError if the file exists and is not a bundle, because a policy that is named by mistake would be
    lost.
    """
    from policyengine.compiler.bundle.file import is_bundle

    if output.is_dir():
        hint = f"name a file in it: `{output / 'policies.policybundle'}`"
        raise CommandError("file", f"`{output}` is a folder", hint, (("file", str(output)),))
    if output.exists() and not (output.is_file() and is_bundle(output)):
        hint = "name another file, or remove this one"
        raise CommandError(
            "file", f"`{output}` exists and is not a bundle, so it is not replaced", hint, (("file", str(output)),)
        )


def _print_summary(facts: dict[str, Any], done: str) -> None:
    screen = Screen()
    rules, packages = pluralize(facts["rules"], "rule"), ", ".join(facts["packages"])
    screen.line(f"{done} {rules} of {packages} into {facts['file']}: {facts['bytes']:,} bytes")
    rows = [(name, facts[name]) for name in ("revision", "digest", "signed_by") if facts[name] is not None]
    screen.table([(f"{name.replace('_', ' ')}:", value) for name, value in rows])
    if facts["warnings"]:
        screen.line((f"{pluralize(facts['warnings'], 'warning')}: `policyengine check` shows them", "yellow"))
