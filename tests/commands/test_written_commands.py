"""What stands in the comments of recipes and in the README's table: parsed, and (slow) run on small data."""

from pathlib import Path

import pytest

from distilplace import evaluate, train
from distilplace.engine.options import EvaluateOptions, TrainOptions
from distilplace.engine.options.command_line import parse
from distilplace.tools import cluster, whiten
from tests.commands.small_worlds import Place
from tests.commands.written import readme_commands, recipe_commands
from tests.conftest import ROOT

RECIPES, ROWS = recipe_commands(ROOT), readme_commands(ROOT)
WRITTEN = {**RECIPES, **{f"README, {name}": commands for name, commands in ROWS.items()}}
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
