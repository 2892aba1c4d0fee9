"""A run's weights, taken out of its folder: evaluated as they were there, started from, told where flags disagree."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import nn

from distilplace import evaluate, train
from distilplace.common.errors import UserError
from distilplace.datasets import create_dataset
from distilplace.engine.model_card import card_options, unlike_trained
from distilplace.models import create_model
from distilplace.models.checkpoints import read_card, read_weights, save_weights
from tests.miniature_images import numbered, write_images

FLAGS = ["--dataset", "images", "--train_fraction", "0.5", "--frame_tolerance", "0", "--image_size", "32x48"]
FLAGS += ["--student_model", "mobilenetv3_small", "--student_output_dim", "8", "--pretrained", "none"]
FLAGS += ["--distil_method", "nokd", "--val_fraction", "0", "--train_batch_size", "8"]


class Run(NamedTuple):
    pictures: str
    moved: str
    """Weights of two epochs, the second added to a finished run; nothing else of the run is left."""
    epochs: list[int]
    """That the weights of the finished and of the prolonged run name."""
    beside: dict[str, object]
    """Measures of the same weights in their run folder."""


def measured(*flags: str) -> dict[str, object]:
    """What ``evaluate.py FLAGS`` would report of its only row; the report is not drawn."""
    found: list[dict[str, object]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            evaluate, "report_outcome", lambda outcome, **_: found.append(outcome.entries[0].result.to_dict())
        )
        patch.setattr(evaluate, "report_folder", lambda rows: Path("never written"))
        assert evaluate.main(list(flags)) == 0
    return found[0]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    folder = tmp_path_factory.mktemp("moved")
    pictures = write_images(folder / "pictures", numbered(range(16)), numbered(range(16)))
    flags = [*FLAGS, "--dataset_folder", str(pictures), "--logdir", str(folder), "--exp_name", "run"]
    best, epochs = folder / "run" / "models" / "best.safetensors", []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "report_outcome", lambda *_, **__: None)
        for more in (["--epochs", "1"], ["--epochs", "2", "--resume", "auto"]):
            assert train.main([*flags, *more]) == 0
            epochs.append(read_card(best).scores["training"]["epoch"])
    beside = measured("--weights", str(best))
    moved = shutil.move(best, folder / "student.safetensors")
    shutil.rmtree(folder / "run")
    return Run(str(pictures), str(moved), epochs, beside)


def test_moved_weights_are_evaluated_as_in_their_run_folder(run, tmp_path, monkeypatch):
    (tmp_path / "paths.yaml").write_text(f"images:\n  dataset_folder: {run.pictures}\n")
    monkeypatch.setenv("DISTILPLACE_PATHS", str(tmp_path / "paths.yaml"))
    assert measured("--weights", run.moved) == run.beside
    assert len(run.beside["recall"]) > 1


def test_flags_that_disagree_are_told(run, capsys):
    where = ["--weights", run.moved, "--dataset_folder", run.pictures]
    measured(*where, "--normalisation", "raw", "--image_size", "48")
    told = capsys.readouterr().out
    assert "images 48, raw" in told
    (line,) = [line for line in told.splitlines() if "not as it was trained" in line]
    assert "size of images resize 48x48 bicubic (trained: resize 32x48 bicubic); size of queries" in line
    assert 'normalisation {"mean": [0.0, 0.0, 0.0]' in line
    for flags, told in (
        (["--student_model", "resnet18"], "network is mobilenetv3_small in the file, resnet18 in the model"),
        (["--student_output_dim", "16"], "output_dim is 8 in the file, 16 in the model"),
    ):
        assert evaluate.main([*where, *flags]) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert told in line


def test_other_settings_that_no_weight_shows_are_told(run):
    data = create_dataset("images", dataset_folder=run.pictures, train_fraction=0.5)
    told = unlike_trained(run.moved, {"output_dim": 8, "pool": "mean", "dropout": 0.1, "pretrained": "x"}, data)
    assert told.startswith("pool mean (trained: GeM); size of images their own (trained: resize 32x48 bicubic); size")


def test_without_a_data_folder_one_line_says_where_to_name_it(run, capsys):
    assert evaluate.main(["--weights", run.moved]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "no folder for data set images: give --dataset_folder" in line


def test_a_finished_run_is_prolonged_and_its_weights_say_so(run):
    assert run.epochs == [1, 2]


def test_moved_weights_start_a_new_network(run):
    started = create_model("mobilenetv3_small", output_dim=8, pretrained=run.moved).state_dict()
    state = read_weights(run.moved).state.tensors
    assert started.keys() == state.keys()
    assert all(torch.equal(started[name], value) for name, value in state.items())


@pytest.mark.parametrize(("name", "value"), [("dataset", {"a": 1}), ("scales", [[1]]), ("image_size", {"$ref": "x"})])
def test_options_that_are_no_plain_values_are_refused(run, tmp_path, name, value):
    card = read_card(run.moved)
    path = save_weights(
        nn.Linear(1, 1),
        tmp_path / "a.safetensors",
        replace(card, options={**card.options, name: value, "dataset_folder": "/etc", "unheard_of": 1}),
    )
    with pytest.raises(UserError, match=rf"a\.safetensors: option {name} is no plain value"):
        card_options(path)


def test_a_file_never_names_a_folder_and_knows_its_network(run, tmp_path):
    card = read_card(run.moved)
    path = save_weights(
        nn.Linear(1, 1),
        tmp_path / "a.safetensors",
        replace(card, options={"dataset_folder": "/etc", "unheard_of": 1, "student_model": "resnet50"}),
    )
    network = {"student_model": "mobilenetv3_small", "train_mode": "train_student"}
    assert card_options(path) == {"dataset": "images", **network}
    assert card_options(tmp_path / "absent.safetensors") == card_options(None) == {}
