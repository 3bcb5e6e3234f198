"""How to install the optional packages of this project, which has no release: they come from a checkout."""

from __future__ import annotations


def install_command(extra: str) -> str:
    """Return the command that installs an extra of `pyproject.toml`, for hints of errors."""
    return f"in a checkout of policyengine: `pip install -c constraints.txt '.[{extra}]'`"
