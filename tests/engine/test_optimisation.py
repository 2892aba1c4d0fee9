"""Every option of optimiser, schedule, weights and steps reaches what it is meant for."""

import json
import math
import re

import pytest
import torch
from torch import nn

from distilplace.common.errors import UserError
from distilplace.common.tensor_files import read_tensors
from distilplace.engine.alarms import active_triplets
from distilplace.engine.optimisation import build_optimizer
from distilplace.engine.trainer import Trainer
from distilplace.losses.tasks.task_loss import TaskLoss
from tests.engine.toy_run import ToyNet, before_step, noting_sizes, options_of, run_toy


def optimizer_of(folder, *flags, owned: nn.Module | None = None) -> torch.optim.Optimizer:
    return build_optimizer(options_of(folder, *flags), ToyNet(), {"distiller": owned, "task_loss": None})


def test_every_branch_and_what_losses_own_learn_at_their_rates(tmp_path):
    owned = nn.Linear(2, 2)
    optimizer = optimizer_of(tmp_path, "--image_lr", "0.25", "--cloud_lr", "0.5", owned=owned)
    groups = {group["name"]: group for group in optimizer.param_groups}
    assert {name: group["lr"] for name, group in groups.items()} == {"image": 0.25, "cloud": 0.5, "distiller": 0.25}
    network = ToyNet()
    sizes = {name: sum(parameter.numel() for parameter in group["params"]) for name, group in groups.items()}
    branches = {name: sum(p.numel() for p in parameters) for name, parameters in network.branch_parameters().items()}
    assert sizes == {**branches, "distiller": 6}


@pytest.mark.parametrize("kind", ["Adam", "AdamW", "SGD"])
def test_weight_decay_and_epsilon_reach_every_group(tmp_path, kind):
    flags = ["--optimizer", kind, "--weight_decay", "0.125", "--adam_eps", "0.5"]
    optimizer = optimizer_of(tmp_path, *flags, owned=nn.Linear(2, 2))
    assert type(optimizer).__name__ == kind
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.125}
    if kind == "SGD":
        assert {group["momentum"] for group in optimizer.param_groups} == {0.9}
    else:
        assert {group["eps"] for group in optimizer.param_groups} == {0.5}


def rates(trainer: Trainer, folder) -> list[float]:
    lines = [json.loads(line) for line in (folder / "logs" / "toy" / "metrics.jsonl").read_text().splitlines()]
    every = trainer.progress.step // trainer.progress.epoch
    return [line["train/lr_image"] for line in lines][::every]


SCHEDULES = [
    (["--milestones", "1_3", "--lr_gamma", "0.5"], [1.0, 0.5, 0.5, 0.25]),
    (["--scheduler", "None"], [1.0] * 4),
    (["--scheduler", "CosineAnnealingLR"], [(1 + math.cos(math.pi * epoch / 4)) / 2 for epoch in range(4)]),
]


@pytest.mark.parametrize(("flags", "factors"), SCHEDULES)
def test_rates_fall_as_the_schedule_says(tmp_path, flags, factors):
    trainer = run_toy(options_of(tmp_path, "--epochs", "4", *flags), tmp_path)
    assert rates(trainer, tmp_path) == pytest.approx([1e-4 * factor for factor in factors])


def total_of(folder, *flags) -> tuple[float, dict[str, float]]:
    run_toy(options_of(folder, "--epochs", "1", *flags), folder)
    line = json.loads((folder / "logs" / "toy" / "metrics.jsonl").read_text().splitlines()[0])
    logged = {name.removeprefix("train/"): value for name, value in line.items()}
    return logged["loss"], logged


def test_both_logit_weights_weight_their_part_of_the_loss(tmp_path):
    method = ["--distil_method", "rkd"]
    for task, distil in ((1.0, 1.0), (0.25, 2.0), (0.0, 3.0)):
        weights = ["--task_logit_weight", str(task), "--distil_logit_weight", str(distil)]
        total, logged = total_of(tmp_path / f"{task}", *method, *weights)
        terms = [value for name, value in logged.items() if name.startswith("loss_") and name != "loss_task"]
        assert logged["loss_task"] > 0
        assert sum(terms) > 0
        assert total == pytest.approx(task * logged["loss_task"] + distil * sum(terms), rel=1e-5)


def poison(trainer: Trainer) -> None:
    """Let the task loss be NaN once, with gradients that are too."""
    healthy = trainer.task_loss

    class Broken(TaskLoss):
        def forward(self, outputs, *masks):
            trainer.task_loss = healthy
            return outputs["embedding"].sum() * float("nan"), {}

    trainer.task_loss = Broken()


def test_a_step_that_is_not_finite_stops_the_run(tmp_path):
    folder = tmp_path / "logs" / "toy"
    with pytest.raises(UserError, match=r"step 2: loss_task is not finite \(its batch is kept: .*--skip_nonfinite"):
        run_toy(options_of(tmp_path), tmp_path, before_step(2, poison))
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 2
    assert '"train/loss": null' in lines[1]
    assert "error: step 2: loss_task is not finite" in (folder / "log.txt").read_text()
    assert list(folder.glob("events*"))
    kept, text = read_tensors(folder / "nonfinite.safetensors")
    assert kept["images"].shape == (8, 3, 8, 8)
    assert text["step"] == "2"


def poison_gradient(trainer: Trainer) -> None:
    """Let the loss be finite and its gradient not, once."""

    def spoil(gradient):
        handle.remove()
        return gradient * float("inf")

    handle = trainer.network.fc.weight.register_hook(spoil)


def test_a_gradient_that_is_not_finite_stops_the_run_too(tmp_path):
    with pytest.raises(UserError, match=r"step 1: gradient_norm is not finite"):
        run_toy(options_of(tmp_path), tmp_path, before_step(1, poison_gradient))
    assert (tmp_path / "logs" / "toy" / "metrics.jsonl").is_file()  # even of a run that diverged at once


@pytest.mark.parametrize(("spoil", "what"), [(poison, "loss_task"), (poison_gradient, "gradient_norm")])
def test_a_step_that_is_not_finite_is_skipped_where_asked_and_changes_nothing(tmp_path, spoil, what):
    before, after = {}, {}

    def note(into):
        def watch(trainer: Trainer) -> None:
            into.update({name: value.clone() for name, value in trainer.network.named_parameters()})
            into["moments"] = len(trainer.optimizer.state)
            if into is before:
                spoil(trainer)

        return watch

    def watch(trainer: Trainer) -> None:
        before_step(2, note(before))(trainer)
        before_step(3, note(after))(trainer)

    trainer = run_toy(options_of(tmp_path, "--skip_nonfinite"), tmp_path, watch)
    assert before.keys() == after.keys()
    assert all(torch.equal(torch.as_tensor(value), torch.as_tensor(after[name])) for name, value in before.items())
    assert all(bool(torch.isfinite(value).all()) for value in trainer.network.state_dict().values())
    said = (tmp_path / "logs" / "toy" / "log.txt").read_text()
    assert re.search(rf"step 2: {what} is not finite \(its batch is kept: .*\); step skipped", said)


def test_the_rates_of_augmentation_reach_the_loader(tmp_path):
    flags = ["--bcs_aug_rate", "0.3", "--hue_aug_rate", "0.05", "--erasing_aug_rate", "1"]
    seen = {}

    def look(trainer: Trainer) -> None:
        seen["rates"] = trainer.loader.dataset.rates
        seen["image"] = trainer.loader.dataset[0]["images"]

    run_toy(options_of(tmp_path / "a", *flags), tmp_path / "a", look)
    erased = seen["image"]
    assert seen["rates"] == (0.3, 0.05, 1.0)
    run_toy(options_of(tmp_path / "b", *flags[:4], "--erasing_aug_rate", "0"), tmp_path / "b", look)
    assert not torch.equal(erased, seen["image"])


@pytest.mark.parametrize("loss", ["MultiBatchHardTripletMarginLoss", "BatchHardTripletMarginLoss"])
@pytest.mark.parametrize(("threshold", "size"), [("0", 8), ("1", 16)])
def test_batches_grow_when_few_triplets_are_active(tmp_path, loss, threshold, size):
    flags = ["--batch_size_limit", "16", "--batch_expansion_rate", "2", "--batch_expansion_th", threshold]
    flags += ["--image_lr", "0.01", "--cloud_lr", "0.01"]
    sizes: list[int] = []
    trainer = run_toy(options_of(tmp_path, "--loss", loss, *flags), tmp_path, noting_sizes(sizes))
    assert trainer.sampler.batch_size == size
    assert max(sizes) == size


def test_the_share_of_active_triplets_is_that_of_the_final_embedding():
    assert active_triplets({"num_triplets": 8.0, "num_non_zero_triplets": 2.0}) == 0.25
    several = {"final_num_triplets": 8.0, "final_num_non_zero_triplets": 4.0, "cloud_num_triplets": 8.0}
    assert active_triplets({**several, "cloud_num_non_zero_triplets": 8.0}) == 0.5
    assert active_triplets({"loss": 1.0, "num_triplets": 0.0}) is None


def test_growing_batches_are_refused_where_nothing_could_let_them_grow(tmp_path):
    growth = ["--batch_size_limit", "16", "--batch_expansion_rate", "2"]
    for flags in (["--loss", "TruncatedSmoothAP"], ["--batches", "items"], ["--loss", "sare_ind"]):
        with pytest.raises(UserError, match="--batch_expansion_rate"):
            run_toy(options_of(tmp_path, *growth, *flags), tmp_path)
