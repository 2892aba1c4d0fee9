"""Commands as users read them: from the comments of recipes, and from the README's table "Coming from ..."."""

import re
import shlex
from pathlib import Path

PROGRAM = re.compile(r"^(?:python )?((?:train|evaluate)\.py|-m tools\.\w+)(?= )")
RUN = "logs/<run>"
"""Stands for the folder of the run before."""


def recipe_commands(root: Path) -> dict[str, list[list[str]]]:
    """Per recipe the words of its commands, in their order; ``python`` omitted."""
    found = {}
    for path in sorted((root / "recipes").rglob("*.yaml")):
        lines = [line.removeprefix("# ") for line in path.read_text().splitlines() if line.startswith("# python ")]
        found[path.name] = [_words(line) for line in lines]
    return found


def readme_commands(root: Path) -> dict[str, list[list[str]]]:
    """Per program that people come from the words of our commands, row by row, from left to right.

    "the same with `--flag`" repeats the command before, with this flag too.
    """
    table = (root / "README.md").read_text().split("\n## Coming from")[1].split("\n## ")[0]
    found: dict[str, list[list[str]]] = {}
    for row in (line for line in table.splitlines() if line.startswith("| ") and line != "| their command | ours |"):
        theirs, ours = row.strip("| ").split(" | ")
        if bold := re.match(r"\*\*(.+?)\*\*", theirs):
            found[bold[1]] = []
        commands = found[list(found)[-1]]
        for before, text in re.findall(r"([^`]*)`([^`]+)`", ours):
            if PROGRAM.match(text):
                commands.append(_words(text))
            elif before.strip() == "the same with":
                commands.append([*commands[-1], *shlex.split(text)])
    return found


def _words(text: str) -> list[str]:
    """``-m tools.x`` becomes one word, so that the first is always the program."""
    matched = PROGRAM.match(text)
    assert matched is not None, text
    return [matched[1].removeprefix("-m "), *shlex.split(text[matched.end() :])]
