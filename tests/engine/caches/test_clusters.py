"""Clusters are found once, with the places that train; a file of other images or weights is refused."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from safetensors.torch import load_file, save_file

from distilplace.common.errors import UserError
from distilplace.engine.assembly import Parts
from distilplace.engine.building import build_network, split_validation, student_settings
from distilplace.engine.caches.clusters import start_clusters
from distilplace.engine.context import Context
from distilplace.engine.options import TrainOptions
from distilplace.engine.options.command_line import parse
from distilplace.tools import cluster
from tests.miniature_images import numbered, write_images, write_picture

NETWORK = "mobilenetv3_smallnetvlad"


@pytest.fixture
def flags(tmp_path) -> list[str]:
    write_images(tmp_path / "images", numbered(range(20)), numbered(range(20)))
    where = ["--dataset", "images", "--dataset_folder", str(tmp_path / "images"), "--frame_tolerance", "0"]
    small = ["--train_fraction", "0.5", "--image_size", "64x64", "--pretrained", "none", "--accelerator", "cpu"]
    names = ["--student_model", NETWORK, "--distil_method", "nokd", "--clusters", "4"]
    return [*where, *small, *names, "--logdir", str(tmp_path / "logs")]


def start(home: Path, flags: list[str]) -> None:
    """What ``train.py`` does before its first step."""
    options = parse(TrainOptions, flags, home=home, environment={})
    context = Context.open(options)
    data = context.data
    network = build_network(NETWORK, student_settings(options, NETWORK), seed=options.seed)
    training = split_validation(options, data, data.training_set(), data.evaluation_set()).training
    parts = Parts(training, network, None, None, [], context)
    start_clusters(parts, SimpleNamespace(path=home / "run"))


def files(home: Path) -> list[Path]:
    return sorted((home / "logs" / "clusters").iterdir())


def test_the_command_finds_the_file_that_training_looks_for(tmp_path, flags, capsys):
    assert cluster.main(flags) == 0
    (found,) = files(tmp_path)
    start(tmp_path, flags)
    assert files(tmp_path) == [found]
    assert "clusters: from 64 local descriptors" in capsys.readouterr().out
    write_picture(tmp_path / "images" / "database" / "0002.png", 88)
    start(tmp_path, flags)
    assert len(files(tmp_path)) == 2
    assert f"{found} is of other image files (training images): not used" in capsys.readouterr().out


def test_a_named_file_of_other_settings_or_damaged_is_refused(tmp_path, flags):
    start(tmp_path, flags)
    (found,) = files(tmp_path)
    named = [*flags, "--clusters_file", str(found)]
    start(tmp_path, [*named, "--val_batch_size", "3"])
    with pytest.raises(UserError, match=r"is of other normalisation \(training images\) .* omit --clusters_file"):
        start(tmp_path, [*named, "--normalisation", "raw"])
    with pytest.raises(UserError, match="is of other weights than"):
        start(tmp_path, [*named, "--seed", "8"])
    tensors = load_file(found)
    save_file(tensors, found)
    with pytest.raises(UserError, match="does not say what it was made of"):
        start(tmp_path, named)
    save_file({"descriptors": tensors["descriptors"] * float("nan")}, found)
    with pytest.raises(UserError, match="is damaged"):
        start(tmp_path, named)
