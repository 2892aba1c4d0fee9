"""Tables and docstrings as Markdown."""

import inspect
import re
from collections.abc import Iterable, Sequence
from typing import Any


def code(value: Any) -> str:
    """The value between back-ticks; nothing for an empty text."""
    text = str(value)
    return f"`{text}`" if text else ""


def cell(text: str | None) -> str:
    """Text that may stand in a table: one line; outside of code, bars and angle brackets are escaped."""
    parts = " ".join((text or "").split()).split("`")
    parts[::2] = [part.replace("|", "\\|").replace("<", "&lt;") for part in parts[::2]]
    return "`".join(parts)


def rows(head: Sequence[str], lines: Iterable[Sequence[str]]) -> list[str]:
    """A Markdown table."""
    table = [head, ["---"] * len(head), *([cell(text) for text in line] for line in lines)]
    return ["| " + " | ".join(line) + " |" for line in table]


def summary(found: Any) -> str:
    """The first sentence of a docstring, roles and double back-ticks as Markdown."""
    first = docstring(found).split("\n\n")[0]
    return " ".join(first.split())


def docstring(found: Any) -> str:
    """The docstring as Markdown: references as code, argument lists as lists."""
    text = inspect.getdoc(found) or ""
    text = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", text).replace("``", "`")
    lines: list[str] = []
    inside = False
    for line in text.splitlines():
        if re.fullmatch(r"(Args|Raises|Returns):", line):
            lines += [f"**{line[:-1]}**", ""]
            inside = True
        elif inside and (entry := re.match(r" {4}(\w+): (.*)", line)):
            lines.append(f"- `{entry[1]}`: {entry[2]}")
        elif inside and line.startswith("     "):
            lines.append(f"  {line.strip()}")
        else:
            inside = inside and (not line or line.startswith(" "))
            lines.append(line)
    return "\n".join(lines).strip()
