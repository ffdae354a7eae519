"""Settings of a recipe as Python's values."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any


def changes(settings: Mapping[str, Any]) -> list[str]:
    """The settings as the part in Rust takes them, ``section.key=value``; those that are None are left out."""
    return [f"{key}={_toml(value, key)}" for key, value in settings.items() if value is not None]


def _toml(value: Any, key: str) -> str:
    """A value of Python's in TOML."""
    if hasattr(value, "tolist"):  # NumPy's numbers and arrays.
        value = value.tolist()
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, (str, os.PathLike)):
        return json.dumps(os.fspath(value), ensure_ascii=False)
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_toml(entry, key) for entry in value)}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{json.dumps(name)} = {_toml(entry, key)}' for name, entry in value.items())}}}"
    raise ValueError(f"{key} cannot be {value!r}: give a number, text, True, False, a list or a dict of these")
