"""Errors of the part in Rust as Python's exceptions, in Python's words."""

from __future__ import annotations

import ast
import errno
import re
from typing import Optional

# Options of the command that have a parameter of the same name.
_PARAMETERS = ("data", "device", "epochs", "init", "out", "seed", "test-split", "threads")


def exception(kind: str, message: str, code: Optional[int]) -> Exception:
    """The exception for an error: ``kind`` is "value", "runtime", "missing" or "system", with the system's ``code``."""
    message = in_python(message)
    if kind == "value":
        return ValueError(message)
    if kind == "runtime":
        return RuntimeError(message)
    code = errno.ENOENT if kind == "missing" else code
    if code is None:
        return OSError(message)
    # OSError chooses its class by the number, but would put that before the message.
    error = type(OSError(code, message))(message)
    error.errno = code
    return error


def in_python(text: str) -> str:
    """A message with parameters in place of the command's options. What stands in backquotes is a command."""
    parts = text.replace("`train --resume`", "crescendo.resume").split("`")
    parts[::2] = [_translated(part) for part in parts[::2]]
    return "`".join(parts)


def _translated(text: str) -> str:
    text = re.sub(r"--resume (\S+) --set ([\w.]+)=(\S+?)(?=[\s,;)]|$)", _resume_with, text)
    text = re.sub(r"--resume (.+)$", lambda match: f"crescendo.resume({match[1]!r})", text)
    text = re.sub(r"--set ([\w.]+)=(\S+?)(?=[\s,;)]|$)", lambda match: _changing(match[1], match[2]), text)
    return re.sub(r"--([a-z-]+)( (?:[A-Z]+|cpu|shapes)\b)?", _parameter, text)


def _resume_with(match: re.Match[str]) -> str:
    run, key, value = match.groups()
    return f"crescendo.resume({run}, {_changing(key, value)})"


def _changing(key: str, value: str) -> str:
    names = {"true": "True", "false": "False", "…": "..."}
    if value in names:
        value = names[value]
    else:
        try:
            ast.literal_eval(value)
        except (SyntaxError, ValueError):
            value = repr(value)
    return f"set={{{key!r}: {value}}}"


def _parameter(match: re.Match[str]) -> str:
    option, value = match[1], (match[2] or "").strip()
    if option not in _PARAMETERS:
        return f"the command's option {match[0]}"
    if value and not value.isupper():
        value = repr(value)
    return f"{option.replace('-', '_')}={value}"
