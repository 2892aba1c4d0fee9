"""Whiten_MTD's learning rates in a whole run: one for every step, and the same when the run is stopped and goes on."""

import json
import math

import pytest

from distilplace import train
from distilplace.engine.trainer import Trainer
from tests.miniature_landmarks import write_svd

FLAGS = ["--train_mode", "train_teacher", "--model", "resnet18_gem", "--teacher_output_dim", "8", "--batches", "views"]
FLAGS += ["--views", "landmarks", "--image_size", "36x48", "--crop_size", "32", "--pretrained", "none", "--epochs", "2"]
FLAGS += ["--train_batch_size", "4", "--erasing_aug_rate", "0", "--image_lr", "0.001"]
FLAGS += ["--scheduler", "CosineAnnealingLR", "--scheduler_step", "step", "--lr_min", "0.000001"]


def logged(folder) -> list[float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["train/lr_image"] for line in lines if "train/lr_image" in line]


@pytest.mark.slow
def test_every_step_has_its_rate_through_a_resume_too(tmp_path, monkeypatch):
    videos = ["--dataset", "svd", "--dataset_folder", str(write_svd(tmp_path / "svd")), "--logdir", str(tmp_path)]
    command = [*videos, *FLAGS, "--exp_name", "stopped", "--resume", "auto"]
    step = Trainer.forward

    def stop_after_two(self, batch):
        self.stopping.requested = self.progress.step == 1
        return step(self, batch)

    monkeypatch.setattr(Trainer, "forward", stop_after_two)
    assert train.main(command) == 130
    monkeypatch.setattr(Trainer, "forward", step)
    assert train.main(command) == 0
    found = logged(tmp_path / "stopped")
    count = len(found)
    assert count > 3
    wanted = [1e-6 + (1e-3 - 1e-6) * (1 + math.cos(math.pi * n / count)) / 2 for n in range(count)]
    assert found == pytest.approx(wanted)
