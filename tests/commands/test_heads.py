"""Runs whose network gets a head: fitted once, kept apart from what was learned, the same wherever its file goes."""

import json

import numpy as np
import pytest
import torch

import distilplace
from distilplace import cli, evaluate, train
from distilplace.models.checkpoints import read_card, read_state
from distilplace.tools.export.run import main as export

STUDENT = ["--student_model", "mobilenetv3_small", "--student_output_dim", "8", "--distil_method", "nokd"]
FITTED = ["unit", "centre", "unit", "linear:384", "unit"]


def results(folder):
    return {name: row["recall"]["1"] for name, row in json.loads((folder / "test.json").read_text()).items()}


@pytest.mark.slow  # three whole commands: 40 s
def test_a_run_with_a_fitted_head(oxford, teacher_run, tmp_path, capsys):
    teacher = str(teacher_run / "models" / "best.safetensors")
    flags = [*oxford.flags, "--teacher_weights_path", teacher, "--logdir", str(tmp_path), "--exp_name", "a"]
    flags += ["--distil_method", "nokd", "--centre", "--align_head", "--val_fraction", "0"]
    assert train.main(flags) == 0, capsys.readouterr().err
    models = tmp_path / "a" / "models"
    names = list(results(tmp_path / "a"))
    student = "student resnet18 (nokd)"
    assert names[:3] == [f"{student}, centred", student, f"{student}, centred and ridge head"]
    learned, best, aligned = (read_card(models / f"{name}.safetensors") for name in ("unfitted", "best", "aligned"))
    assert "embedding_head" not in learned.settings
    assert best.settings["embedding_head"] == FITTED[:3]
    assert aligned.settings["embedding_head"] == FITTED
    assert best.embedding == aligned.embedding == {"width": 384, "metric": "cosine", "unit": True}
    assert len({best.fingerprint, learned.fingerprint, aligned.fingerprint}) == 3
    for card, name in zip((best, learned, aligned), names, strict=False):
        assert card.scores["test"]["recall@1"] == pytest.approx(results(tmp_path / "a")[name])

    # as trained, as evaluated from elsewhere, as exported
    data = oxford.flags[: oxford.flags.index("--pretrained")]
    for file, name in (("best", names[0]), ("aligned", names[2])):
        moved = tmp_path / f"moved_{file}.safetensors"
        moved.write_bytes((models / f"{file}.safetensors").read_bytes())
        assert evaluate.main(["--weights", str(moved), *data, "--report", str(tmp_path / "e" / file)]) == 0
        assert next(iter(results(tmp_path / "e" / file).values())) == results(tmp_path / "a")[name]
        assert export([str(moved), "-o", str(tmp_path / f"{file}.onnx"), *data, "--max_drop", "0"]) == 0
        shown = capsys.readouterr()
        assert "same first answer for 100.0 %" in shown.out + shown.err

    # the student localises in its teacher's map, another network does not
    made = read_card(models / "teacher.safetensors")
    assert (aligned.maps, best.maps, learned.maps) == ((made.fingerprint,), (), ())
    assert (made.role, made.settings["embedding_head"]) == ("teacher", ["centre", "unit"])
    where = f"--dataset oxford --dataset_folder {oxford.folder}"
    assert cli.main(f"map add {tmp_path}/m.db --model {models}/teacher.safetensors {where}".split()) == 0
    picture = sorted(oxford.images.rglob("*.png"))[0]
    assert cli.main(f"localise --map {tmp_path}/m.db --model {tmp_path}/aligned.onnx {picture}".split()) == 0
    assert cli.main(f"localise --map {tmp_path}/m.db --model {models}/best.safetensors {picture}".split()) == 2
    assert "was made by another model: minklocmmcat" in capsys.readouterr().err
    assert evaluate.main(["--weights", str(models / "teacher.safetensors"), "--report", str(tmp_path / "t")]) == 0
    assert results(tmp_path / "t").keys() == {"a (teacher minklocmmcat)"}

    # a prolonged run goes on from what was learned, and fits again
    before = read_state(models / "last.safetensors")
    assert train.main([*flags, "--epochs", "3", "--resume", "auto"]) == 0, capsys.readouterr().err
    assert read_card(models / "best.safetensors").settings["embedding_head"] == FITTED[:3]
    assert read_card(models / "aligned.safetensors").settings["embedding_head"] == FITTED
    after = read_state(models / "last.safetensors")
    assert before.keys() == after.keys()
    assert not any(key.startswith("embedding_head") for key in after)
    assert torch.isfinite(distilplace.load(models / "best.safetensors", "cpu").network.embedding_head[1].mean).all()


@pytest.mark.slow  # three whole commands
def test_finished_weights_are_centred_as_their_run_would_have(oxford, tmp_path, capsys):
    """By the frames that the run has learned from, without its validation split."""
    flags = [*oxford.flags, *STUDENT, "--logdir", str(tmp_path), "--exp_name", "a"]
    assert train.main([*flags, "--centre", "--val_fraction", "0.3", "--epochs", "1"]) == 0, capsys.readouterr().err
    assert "left to train on" in capsys.readouterr().out
    models, centred, row = tmp_path / "a" / "models", tmp_path / "c.safetensors", "student mobilenetv3_small (nokd)"
    assert cli.main(["centre", str(models / "unfitted.safetensors"), "-o", str(centred)]) == 0
    pictures = sorted(oxford.images.rglob("*.png"))[:12]
    bare, *fitted = (
        distilplace.load(path, "cpu").embed(pictures)
        for path in (models / "unfitted.safetensors", models / "best.safetensors", centred)
    )
    np.testing.assert_allclose(fitted[0], fitted[1], atol=1e-6)
    assert np.abs(fitted[0] - bare).max() > 0.1
    trained, learned = (results(tmp_path / "a")[name] for name in (f"{row}, centred", row))
    data = oxford.flags[: oxford.flags.index("--pretrained")]
    assert evaluate.main(["--weights", str(centred), *data, "--report", str(tmp_path / "e")]) == 0
    assert list(results(tmp_path / "e").values()) == [trained] != [learned]
