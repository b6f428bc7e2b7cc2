"""How a setting is declared: its default, its bounds, and whether it changes results."""

from dataclasses import field
from typing import Any


def runtime_only(default: Any) -> Any:
    """A field that does not change results and so does not count when two runs are compared."""
    return field(default=default, metadata={"changes_results": False})


def number(default: Any, low: Any = None, high: Any = None, runtime_only: bool = False) -> Any:
    """A number with the least and greatest value allowed."""
    return field(default=default, metadata={"low": low, "high": high, "changes_results": not runtime_only})


def section(kind: type) -> Any:
    """A nested group of settings."""
    return field(default_factory=kind)
