"""The generated reference: every option, name and command stands on its page, in tables that Markdown reads."""

import re

import pytest

from distilplace import cli
from distilplace.datasets import list_datasets
from distilplace.engine.options import EvaluateOptions, TrainOptions
from distilplace.losses import list_distillers, list_task_losses
from distilplace.models import list_models
from distilplace.tools.docs.markdown import cell, docstring
from distilplace.tools.docs.pages import pages


@pytest.fixture(scope="module")
def made() -> dict[str, str]:
    return pages()


def named(page: str) -> set[str]:
    """What stands as code in the first column."""
    return {
        name for line in page.splitlines() if line.startswith("| `") for name in re.findall(r"`(.*?)`", cells(line)[0])
    }


def cells(line: str) -> list[str]:
    """The columns of a table's row: bars in code or behind a backslash are text."""
    return [
        part.strip()
        for part in re.split(r"(?<!\\)\|", re.sub(r"`[^`]*`", lambda code: code[0].replace("|", "!"), line))
    ][1:-1]


def test_every_name_stands_on_its_page(made):
    options = {f"--{name}" for kind in (TrainOptions, EvaluateOptions) for name in kind.model_fields}
    assert options <= named(made["reference/options.md"])
    assert {*list_distillers(), *list_task_losses()} <= named(made["reference/losses.md"])
    assert set(list_models()) == named(made["reference/models.md"])
    assert set(list_datasets()) == named(made["reference/data-sets.md"])
    assert {f"distilplace {name}" for name in cli.COMMANDS} == named(made["reference/commands.md"])


def test_the_robots_api_stands_there_with_its_methods(made):
    page = made["reference/api.md"]
    titles = re.findall(r"^#+ (.*)$", page, flags=re.MULTILINE)
    methods = ("add", "delete", "search", "runs", "compact", "info")
    assert {"load", "Student", "Student.embed", "Localiser", "Localiser.follow"} <= set(titles)
    assert {f"PlaceMap.{name}" for name in methods} <= set(titles)
    add = page[page.index("### PlaceMap.add") :].split("###")[1]
    assert "- `positions`: [n, 2] easting and northing, metres." in add
    assert "As `BaseMap" not in page


def test_tables_are_whole_and_every_name_is_explained(made):
    for path, page in made.items():
        width = 0
        for line in page.splitlines():
            if not line.startswith("|"):
                width = 0
                continue
            found = cells(line)
            width = width or len(found)
            assert len(found) == width, f"{path}: {line}"
            assert found[1], f"{path}: {line}"


def test_no_reference_role_or_double_tick_is_left(made):
    for path, page in made.items():
        prose = re.sub(r"```.*?```", "", page, flags=re.DOTALL)
        assert not re.search(r":(class|func|mod|data|meth):|``", prose), path


def test_docstrings_become_markdown():
    def example() -> None:
        """Give ``x``.

        Args:
            x: one
                or two.

        Raises:
            UserError: never :class:`it`.

        """

    assert docstring(example).splitlines() == [
        *("Give `x`.", "", "**Args**", "", "- `x`: one", "  or two.", ""),
        *("**Raises**", "", "- `UserError`: never `it`."),
    ]
    assert cell("a | b `c|d` <e>\nf") == "a \\| b `c|d` &lt;e> f"
