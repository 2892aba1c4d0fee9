"""Reports of evaluations: in the run's folder or below logs, replaced by their like and by nothing else."""

from pathlib import Path

import pytest

from distilplace.engine.options import EvaluateOptions
from distilplace.engine.runs.report_folder import report_folder


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def evaluated(*weights: str, **options: str) -> str:
    rows = [
        EvaluateOptions(weights=name, **{"dataset": "images", "dataset_folder": "d", **options}) for name in weights
    ]
    folder = report_folder(rows)
    (folder / "test.json").touch()
    return str(folder)


def test_a_file_of_no_run_has_its_report_below_logs():
    assert evaluated("/models/published.pth") == "logs/evaluation-published-images"
    assert (
        evaluated("/models/published.pth", dataset="svd", test_dataset="tokyo247")
        == "logs/evaluation-published-tokyo247"
    )
    Path("mine").mkdir()
    assert evaluated("w.pth", report="mine") == "mine"


def test_a_runs_report_lies_in_its_folder():
    (Path("run") / "models").mkdir(parents=True)
    (Path("run") / "config.yaml").touch()
    assert evaluated("run/models/best.safetensors").endswith("run/evaluation-images")


def test_a_report_of_other_weights_or_data_is_kept_and_of_the_same_replaced():
    first = evaluated("a/w.pth")
    assert evaluated("b/w.pth") == f"{first}-2"
    assert evaluated("a/w.pth", dataset_folder="e") == f"{first}-3"
    assert evaluated("a/w.pth", "b/w.pth") == f"{first}-4"
    assert evaluated("a/../a/w.pth", dataset_folder="../" + Path.cwd().name + "/d") == first
    assert evaluated("b/w.pth") == f"{first}-2"


def test_a_folder_that_says_nothing_of_itself_is_kept():
    folder = Path("logs/evaluation-w-images")
    folder.mkdir(parents=True)
    assert evaluated("w.pth") == str(folder)  # empty
    (folder / "evaluated.json").write_text("{")
    assert evaluated("w.pth") == f"{folder}-2"
