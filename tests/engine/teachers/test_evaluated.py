"""``evaluate.py --teacher_store``: a finished student in its teacher's map, and stores that are of something else."""

from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric
from PIL import Image

from distilplace.common.errors import UserError
from distilplace.datasets.benchmarks import PoseSet
from distilplace.datasets.records import TrainingSet
from distilplace.engine.caches.fingerprint import Fingerprint, of_frames
from distilplace.engine.caches.store import LABELS, open_store, write_store
from distilplace.engine.context import Context
from distilplace.engine.embedding import Embedder
from distilplace.engine.options import EvaluateOptions
from distilplace.engine.options.command_line import check, parse
from distilplace.engine.teachers import asymmetric
from distilplace.engine.teachers.evaluated import in_teacher_maps
from distilplace.evaluation.retrieval.asymmetric import ACROSS, STUDENT, AsymmetricResult
from tests.engine.toy_run import ToyData, ToyNet


def filled(folder: Path, data: ToyData) -> Path:
    """A store of ToyNet's outputs for the toy street."""
    embedder = Embedder(Context(EvaluateOptions(weights="w"), data, Fabric(accelerator="cpu", devices=1)))
    parts = [embedder.embed(ToyNet(seed=5), data.records, "") for _ in LABELS]
    frames = (of_frames(label, data, data.records, ("images",)) for label in LABELS.values())
    made_from = Fingerprint({"model": "toy"})
    for each in frames:
        made_from |= each
    write_store(folder, made_from, *parts, {"parameters": "9"})
    return folder


def measured(data: ToyData, **options: object) -> list[AsymmetricResult]:
    values = EvaluateOptions(weights="w", **options)
    context = Context(values, data, Fabric(accelerator="cpu", devices=1)).testing(data)
    network, test = ToyNet(), data.evaluation_set()
    return in_teacher_maps(context, network, Embedder(context).embed_and_score(network, test, ""), test, None)


def test_a_student_is_measured_in_the_map_of_a_stored_teacher(tmp_path, monkeypatch):
    data = ToyData(tmp_path / "data")
    (found,) = measured(data, teacher_store=str(filled(tmp_path / "store", data)))
    assert found.teacher == "toy"
    assert [*found.spaces] == ["raw", "centred"]
    assert found.notes == ["centred by the mean over 24 training frames"]
    assert {STUDENT, ACROSS} <= {*found.spaces["centred"].directions}
    assert measured(data) == []
    monkeypatch.setattr(asymmetric, "FRAMES", 10)
    (thinned,) = measured(data, teacher_store=str(tmp_path / "store"))
    assert thinned.notes == ["centred by the mean over 10 of 24 training frames"]


def test_without_training_frames_nothing_is_centred_and_the_reason_is_told(tmp_path, monkeypatch):
    data = ToyData(tmp_path / "data")
    store = str(filled(tmp_path / "store", data))

    def refuse(self) -> TrainingSet:
        raise UserError("data set toy has no training part")

    monkeypatch.setattr(ToyData, "training_set", refuse)
    (found,) = measured(data, teacher_store=store)
    assert [*found.spaces] == ["raw"]
    assert found.notes == ["not centred: data set toy has no training part"]


def test_a_store_of_other_frames_and_benchmarks_without_a_map_are_refused(tmp_path):
    data = ToyData(tmp_path / "data")
    store = str(filled(tmp_path / "store", data))
    Image.new("RGB", (8, 8)).save(data.records[3].images[0])
    with pytest.raises(UserError, match=r"other test frames than are evaluated here \(1 of 24 image files"):
        measured(data, teacher_store=store)
    with pytest.raises(UserError, match="does not exist"):
        measured(data, teacher_store=str(tmp_path / "elsewhere"))
    with pytest.raises(UserError, match="names 2 files for 1 teachers"):
        measured(data, teacher_weights_path=["a", "b"])
    poses = PoseSet("p", data.records, torch.zeros(24, 7).numpy())
    context = Context(EvaluateOptions(weights="w", teacher_store=store), data, Fabric(accelerator="cpu", devices=1))
    with pytest.raises(UserError, match="poses are not searched for"):
        in_teacher_maps(context, ToyNet(), ({}, None), poses, None)


def test_an_opened_store_says_whose_it_is(tmp_path):
    data = ToyData(tmp_path / "data")
    store = open_store(filled(tmp_path / "store", data))
    assert store.model == "toy"
    assert list(store.test.keys) == [record.key for record in data.records]


def test_options_say_which_teachers_and_are_refused_where_nothing_reads_them(tmp_path):
    where = ["--dataset", "images", "--dataset_folder", "D", "--weights", "w"]
    student, map_of = ["--student_model", "resnet18"], ["--teacher_weights_path", "T", "--model", "resnet50"]
    read = parse(EvaluateOptions, [*where, *student, *map_of], home=tmp_path, environment={})
    assert read.network_role() == "student"
    with pytest.raises(UserError, match=r"--model \(--weights are a student's"):
        parse(EvaluateOptions, [*where, *student, *map_of[2:], "--teacher_store", "S"], home=tmp_path, environment={})
    role = ["--role", "teacher", "--model", "resnet50"]
    with pytest.raises(UserError, match=r"--teacher_store \(--weights are a teacher's"):
        parse(EvaluateOptions, [*where, *role, "--teacher_store", "S"], home=tmp_path, environment={})
    with pytest.raises(UserError, match="give one of them"):
        check(EvaluateOptions, {"weights": "w", "teacher_store": "S", "teacher_weights_path": ["T"]})
