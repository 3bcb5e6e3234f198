"""How the optional packages of this project are installed. There is no release: they come from a checkout."""

from __future__ import annotations


def install_command(extra: str) -> str:
    """What to run for an extra of `pyproject.toml`, as a hint of an error says it."""
    return f"in a checkout of policyengine: `pip install -c constraints.txt '.[{extra}]'`"
