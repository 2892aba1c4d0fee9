"""Whole runs of the trainer, in this process: what they leave behind, and upstream's faults that they do not have."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from distilplace import evaluate, train
from distilplace.engine import trainer as trainer_module
from distilplace.engine.embedding import Embedder
from distilplace.engine.options import TrainOptions
from distilplace.engine.options.command_line import parse
from distilplace.engine.trainer import Trainer
from distilplace.losses.tasks.task_loss import TaskLoss
from distilplace.models import create_model
from distilplace.models.checkpoints import load_weights

REST = ("rkdg", "ours", "rkd")
"""Methods beside the published command's, which holds the terms of all."""


def student_flags(oxford, logs, name, *more):
    return [*oxford.flags, "--logdir", str(logs), "--exp_name", name, *more]


def distilled_flags(oxford, teacher_run, logs, name, *more):
    weights = str(teacher_run / "models" / "best.safetensors")
    return student_flags(oxford, logs, name, "--teacher_weights_path", weights, "--rkdgloss_weight", "1", *more)


def test_a_run_leaves_weights_options_metrics_events_and_a_report(teacher_run):
    names = {path.name for path in teacher_run.iterdir()}
    assert {
        "config.yaml",
        "env.json",
        "log.txt",
        "metrics.jsonl",
        "last.ckpt",
        "models",
        "report",
        "test.json",
    } <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    assert yaml.safe_load((teacher_run / "config.yaml").read_text())["train_mode"] == "train_teacher"
    lines = [json.loads(line) for line in (teacher_run / "metrics.jsonl").read_text().splitlines()]
    logged = {name for line in lines for name in line}
    wanted = ("loss", "loss_task", "lr_image", "lr_cloud", "embedding_norm", "embedding_rank")
    assert {f"train/{name}" for name in wanted} <= logged
    assert not list(teacher_run.rglob(".*"))
    assert "teacher minklocmmcat" in (teacher_run / "report" / "index.html").read_text()


@pytest.mark.slow
def test_tensorboard_holds_losses_recalls_and_pictures(oxford, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert train.main(student_flags(oxford, tmp_path, "s", "--distil_method", "nokd", "--val_fraction", "0.3")) == 0
    events = EventAccumulator(str(tmp_path / "s"))
    events.Reload()
    assert {"train/loss_task", "validation/recall@1", "train/lr_image"} <= set(events.Tags()["scalars"])
    assert events.Tags()["images"] == ["validation/retrievals"]


def test_best_and_last_weights_are_saved_and_load_into_the_model(oxford, teacher_run):
    """Oddity 6: nothing was ever saved."""
    for name in ("best", "last"):
        network = create_model("minklocmmcat", pretrained="none")
        before = network.state_dict()["cloud_fe.backbone.conv0.kernel"].clone()
        load_weights(network, teacher_run / "models" / f"{name}.safetensors")
        assert not torch.equal(before, network.state_dict()["cloud_fe.backbone.conv0.kernel"])


@pytest.mark.slow
def test_the_teacher_trains_in_train_mode_in_every_epoch(oxford, tmp_path, monkeypatch):
    """Oddity 5: batch-norm statistics froze after the first evaluation."""
    modes, means = [], []
    step = Trainer.forward

    def watch(self, batch):
        modes.append((self.progress.epoch, all(module.training for module in self.network.modules())))
        means.append(self.network.cloud_fe.backbone.bn0.bn.running_mean.clone())
        return step(self, batch)

    monkeypatch.setattr(Trainer, "forward", watch)
    flags = student_flags(oxford, tmp_path, "t", "--train_mode", "train_teacher", "--val_fraction", "0.3")
    assert train.main(flags) == 0
    assert {epoch for epoch, _ in modes} == {0, 1}
    assert all(training for _, training in modes)
    assert not any(torch.equal(a, b) for a, b in pairwise(means))


@pytest.mark.slow
def test_the_store_holds_the_teachers_view_of_clean_inputs(oxford, teacher_run, tmp_path, monkeypatch):
    """Oddity 4: targets came from one augmented pass. Clean by default; --cache_aug draws once, as upstream."""
    seeds = []
    embed = Embedder.embed

    def watch(self, network, records, title, augmented=None):
        seeds.append((title, augmented and augmented.seed))
        return embed(self, network, records, title, augmented)

    monkeypatch.setattr(Embedder, "embed", watch)
    assert train.main(distilled_flags(oxford, teacher_run, tmp_path, "clean")) == 0
    assert ("teacher on training places", None) in seeds
    assert train.main(distilled_flags(oxford, teacher_run, tmp_path, "augmented", "--cache_aug")) == 0
    assert ("teacher on training places", 7) in seeds
    assert ("teacher on test places", None) in seeds
    stores = {path.parent.name: load_file(path) for path in tmp_path.rglob("outputs.safetensors")}
    assert len(stores) == 2
    first, second = stores.values()
    torch.testing.assert_close(first["test.embedding"], second["test.embedding"])
    assert not torch.allclose(first["train.embedding"], second["train.embedding"])


@pytest.mark.slow  # 4 s
def test_test_places_are_scored_once_and_never_choose_the_epoch(oxford, tmp_path, monkeypatch):
    """Oddity 12: the best epoch was chosen on the test set."""
    scored = []
    score = Embedder.embed_and_score

    def watch(self, network, places, title):
        scored.append((title, {record.key for record in places.distinct_records()}))
        return score(self, network, places, title)

    monkeypatch.setattr(Embedder, "embed_and_score", watch)
    flags = student_flags(oxford, tmp_path, "s", "--distil_method", "nokd", "--val_fraction", "0.3")
    assert train.main(flags) == 0
    titles = [title for title, _ in scored]
    assert titles == ["validation", "validation", "test"]
    keys = dict(scored)
    assert not keys["validation"] & keys["test"]


@pytest.mark.slow
def test_a_run_stopped_in_mid_epoch_ends_with_the_same_weights(oxford, teacher_run, tmp_path, monkeypatch):
    straight = distilled_flags(oxford, teacher_run, tmp_path, "straight")
    assert train.main(straight) == 0
    flags = distilled_flags(oxford, teacher_run, tmp_path, "stopped", "--resume", "auto")
    step = Trainer.forward

    def stop_at_the_second(self, batch):
        self.stopping.requested = self.progress.step == 1
        return step(self, batch)

    monkeypatch.setattr(Trainer, "forward", stop_at_the_second)
    assert train.main(flags) == 130
    monkeypatch.setattr(Trainer, "forward", step)
    assert train.main(flags) == 0
    for name in ("best", "last"):
        one = load_file(tmp_path / "straight" / "models" / f"{name}.safetensors")
        other = load_file(tmp_path / "stopped" / "models" / f"{name}.safetensors")
        assert all(torch.equal(value, other[key]) for key, value in one.items())
    assert "resumed at epoch 1, step 2" in (tmp_path / "stopped" / "log.txt").read_text()


def test_resuming_with_other_options_is_refused(oxford, teacher_run, capsys):
    flags = [
        *oxford.flags,
        "--train_mode",
        "train_teacher",
        "--logdir",
        str(teacher_run.parent),
        "--exp_name",
        "teacher",
    ]
    assert train.main([*flags, "--resume", "auto", "--margin", "0.5"]) == 2
    assert "--margin 0.2, now 0.5" in capsys.readouterr().err
    assert train.main(flags) == 2
    assert "holds a run already" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("method", ["ours_rkdg", *REST])
def test_every_method_runs_with_a_live_teacher(oxford, teacher_run, tmp_path, method):
    weights = ["--teacher_weights_path", str(teacher_run / "models" / "best.safetensors")]
    weights += ["--rkdgloss_weight", "1"] if "rkdg" in method else []
    weights += ["--crosslogitsimloss_weight_tt2st", "0.1"] if "ours" in method else []
    flags = [*weights, "--distil_method", method, "--dry_run"]
    assert train.main(student_flags(oxford, tmp_path, method, *flags)) == 0
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_cloud_only_student_trains(oxford, tmp_path):
    flags = student_flags(
        oxford, tmp_path, "c", "--distil_method", "nokd", "--student_model", "minkloconly", "--dry_run"
    )
    assert train.main(flags) == 0


@pytest.mark.slow
def test_staged_steps_train(oxford, tmp_path):
    flags = student_flags(
        oxford, tmp_path, "c", "--distil_method", "nokd", "--train_batch_split_size", "4", "--dry_run"
    )
    assert train.main(flags) == 0


@pytest.mark.slow
def test_kernel_maps_from_workers_give_the_very_same_weights(oxford, tmp_path):
    cloud = ["--distil_method", "nokd", "--student_model", "minkloconly", "--train_batch_split_size", "4"]
    for name, more in (("device", []), ("workers", ["--sparse_maps", "workers", "--num_workers", "2"])):
        assert train.main(student_flags(oxford, tmp_path, name, *cloud, "--epochs", "1", *more)) == 0
    device, workers = (load_file(tmp_path / name / "models" / "last.safetensors") for name in ("device", "workers"))
    assert all(torch.equal(device[name], workers[name]) for name in device)


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["BatchHardTripletMarginLoss", "TruncatedSmoothAP"])
def test_other_task_losses_train(oxford, tmp_path, loss):
    assert train.main(student_flags(oxford, tmp_path, "c", "--distil_method", "nokd", "--loss", loss, "--dry_run")) == 0


@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_the_run_by_name_or_is_skipped(oxford, tmp_path, monkeypatch, capsys):
    class Broken(TaskLoss):
        def forward(self, outputs, positives, negatives):
            return outputs["embedding"].sum() * float("nan"), {}

    monkeypatch.setattr(train, "build_task_loss", lambda options: Broken())
    flags = student_flags(oxford, tmp_path, "n", "--distil_method", "nokd")
    assert train.main(flags) == 2
    assert "loss_task" in capsys.readouterr().err
    kept = {path.name for path in (tmp_path / "n").iterdir()}
    assert {"config.yaml", "log.txt", "metrics.jsonl"} <= kept
    assert any(name.startswith("events.out.tfevents") for name in kept)
    assert "loss_task is not finite" in (tmp_path / "n" / "log.txt").read_text()
    assert train.main([*flags, "--exp_name", "m", "--skip_nonfinite"]) == 0
    assert "step skipped" in (tmp_path / "m" / "log.txt").read_text()


def test_evaluate_reads_the_runs_architecture_and_ignores_its_loss_options(oxford, teacher_run, tmp_path, capsys):
    weights = str(teacher_run / "models" / "best.safetensors")
    assert evaluate.main(["--weights", weights, "--report", str(tmp_path / "r")]) == 0
    numbers = json.loads((tmp_path / "r" / "test.json").read_text())
    before = json.loads((teacher_run / "test.json").read_text())
    (mine,), (theirs,) = numbers.values(), before.values()
    assert mine["recall"] == theirs["recall"]
    assert (tmp_path / "r" / "report" / "index.html").is_file()


def test_names_of_runs_tell_options_apart(tmp_path):
    def name(*flags):
        from distilplace.engine.runs.folder import run_name

        return run_name(parse(TrainOptions, flags, home=tmp_path, environment={}))

    assert name("--curvature", "0.2") != name()
    assert name("--crosslogitdistloss_weight_tt2st", "1") != name()
    assert name("--num_workers", "4") == name()
    assert name("--tryid", "1") != name()


def test_the_trainer_is_one_screenful_per_part():
    assert len(Path(train.__file__).read_text().splitlines()) <= 250
    assert trainer_module.__doc__


@pytest.mark.slow
def test_a_lidar_teacher_and_an_image_teacher_together(oxford, teacher_run, tmp_path):
    image = ["--train_mode", "train_teacher", "--model", "resnet18", "--epochs", "1", "--student_output_dim", "16"]
    logs = ["--logdir", str(tmp_path)]
    assert train.main([*oxford.flags, *image, *logs, "--exp_name", "image"]) == 0
    both = [
        "--model",
        "minklocmmcat",
        "resnet18",
        "--teacher_weights_path",
        str(teacher_run / "models" / "best.safetensors"),
    ]
    both += [
        str(tmp_path / "image" / "models" / "best.safetensors"),
        "--student_output_dim",
        "16",
        "--distil_method",
        "pkt",
        "--epochs",
        "1",
    ]
    assert train.main([*oxford.flags, *both, *logs, "--exp_name", "both"]) == 0
    assert "train/loss_pkt" in (tmp_path / "both" / "metrics.jsonl").read_text()
