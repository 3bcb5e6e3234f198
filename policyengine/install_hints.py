"""Hints on installing the optional packages of this project. The project has no release, so they are installed from a
checkout.
"""

from __future__ import annotations


def install_command(extra: str) -> str:
    """Return the command that installs an extra of `pyproject.toml`, for hints in errors."""
    return f"in a checkout of policyengine: `pip install -c constraints.txt '.[{extra}]'`"
