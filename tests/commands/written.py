"""Commands as users read them: in the comments of recipes, the table of docs/migration.md, and blocks of pages."""

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


def migration_commands(root: Path) -> dict[str, list[list[str]]]:
    """Per program that people come from the words of our commands, row by row, from left to right.

    "the same with `--flag`" repeats the command before, with this flag too.
    """
    table = (root / "docs" / "migration.md").read_text()
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


MARKS = ("needs real data", "takes minutes")
"""What may be said in a comment above a block that no test runs."""


def block_commands(page: Path) -> dict[str, list[list[str]]]:
    """The words of the commands in the page's ``bash`` blocks.

    "run" and, behind ``distilplace``, "robot": those that tests run; "marked": the others.
    """
    found: dict[str, list[list[str]]] = {"run": [], "robot": [], "marked": []}
    blocks = re.findall(r"(?:<!-- (.*) -->\n)?```bash\n(.*?)```", page.read_text(), flags=re.DOTALL)
    others = re.findall(r"(?<!-->\n)^```(?!bash\n)\w+\n(.*?)^```", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    commands = ("python ", "make ", "distilplace ")
    assert not [line for text in others for line in text.splitlines() if line.startswith(commands)]
    for mark, block in blocks:
        assert not mark or mark.startswith(MARKS), mark
        for line in (line.split("  #")[0].strip() for line in block.splitlines()):
            if mark:
                found["marked"].append(shlex.split(line))
            elif line.startswith("distilplace "):
                found["robot"].append(shlex.split(line)[1:])
            else:
                found["run"].append(_words(line))
    return found


def _words(text: str) -> list[str]:
    """``-m tools.x`` becomes one word, so that the first is always the program."""
    matched = PROGRAM.match(text)
    assert matched is not None, text
    return [matched[1].removeprefix("-m "), *shlex.split(text[matched.end() :])]
