"""What stands in recipes, in docs/migration.md and in blocks of pages: parsed, and (slow) run on small data."""

from pathlib import Path

import pytest

from distilplace import evaluate, train
from distilplace.cli import COMMANDS
from distilplace.engine.options import EvaluateOptions, TrainOptions
from distilplace.engine.options.command_line import parse
from distilplace.tools import cluster, whiten
from tests.commands.small_worlds import Place
from tests.commands.written import block_commands, migration_commands, recipe_commands
from tests.conftest import ROOT

RECIPES, ROWS = recipe_commands(ROOT), migration_commands(ROOT)
PAGES = [ROOT / "README.md", ROOT / "docs" / "index.md", *sorted((ROOT / "docs" / "tutorials").glob("*.md"))]
PAGES += [ROOT / "docs" / "guide" / f"{name}.md" for name in ("export", "maps", "localise")]
BLOCKS = {page.name: block_commands(page) for page in PAGES}
WRITTEN = {
    **RECIPES,
    **{f"migration, {name}": commands for name, commands in ROWS.items()},
    **{name: blocks["run"] for name, blocks in BLOCKS.items()},
}
RUNNABLE = {name: commands for name, commands in WRITTEN.items() if commands}


def test_every_published_recipe_says_how_it_is_run():
    published = {name for name in RECIPES if not name.startswith("demo_")}
    assert {name for name, commands in RECIPES.items() if commands} == published
    for name in published:
        assert any(
            word.startswith("recipes/") and word.endswith(f"/{name}") for command in RECIPES[name] for word in command
        ), name
    assert list(ROWS) == ["DistilVPR", "ASHT-KD", "WAKD", "SCKD", "Whiten_MTD", "RepDistiller"]
    assert sum(map(len, ROWS.values())) >= 19


def test_blocks_of_pages_are_run_or_say_why_not():
    assert {name: len(blocks["run"]) for name, blocks in BLOCKS.items() if blocks["run"]} == {
        "README.md": 3,
        "own-robot.md": 4,
    }
    assert {name: len(blocks["robot"]) for name, blocks in BLOCKS.items() if blocks["robot"]} == {
        "README.md": 3,  # these and those of export.md: test_robot_commands.py
        "export.md": 3,
    }
    marked = [words for blocks in BLOCKS.values() for words in blocks["marked"]]
    assert all(words[0] in ("make", "distilplace") or words[:2] == ["python", "train.py"] for words in marked)
    for words in marked:
        if words[0] == "distilplace":
            assert words[1] in COMMANDS  # with weights of a run that takes hours
        if words[0] == "python":
            parse(TrainOptions, words[2:], home=ROOT / "tests", environment={})


@pytest.mark.parametrize("name", RUNNABLE)
def test_written_commands_are_understood(name, tmp_path):
    """Every option exists, has a value of its kind, and is read by what the command runs."""
    for words in RUNNABLE[name]:
        kind = EvaluateOptions if words[0] == "evaluate.py" else TrainOptions
        parse(kind, words[1:], home=tmp_path, environment={})
        assert words[0] in PROGRAMS, words[0]


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("written")


PROGRAMS = {
    "train.py": train.main,
    "evaluate.py": evaluate.main,
    "tools.cluster": cluster.main,
    "tools.whiten": whiten.main,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNNABLE)
def test_written_commands_run_in_their_order(name, data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    place = Place(data, tmp_path)
    for words in RUNNABLE[name]:
        flags = place.flags(words)
        flags += ["--report" if words[0] == "evaluate.py" else "--logdir", str(tmp_path)]
        code = PROGRAMS[words[0]](flags)
        assert code == 0, f"{' '.join(words)}\n-> {' '.join(flags)}\n{capsys.readouterr().err}"
        runs = [path.parent for path in tmp_path.rglob("config.yaml")]
        place.run = max(runs, key=lambda folder: (folder / "config.yaml").stat().st_mtime, default=None)
