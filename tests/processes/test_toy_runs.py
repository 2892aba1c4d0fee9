"""The trainer in one, two and four processes: losses and weights after 20 steps, whatever the method owns included."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from distilplace.engine.context import Context
from distilplace.engine.options import TrainOptions
from tests.engine.toy_run import ToyData, options_of, run_toy
from tests.processes.forked import in_processes

pytestmark = pytest.mark.slow
STEPS = 20
RELATIONS = [flag for kind in ("dist", "sim", "geodist") for flag in (f"--crosslogit{kind}loss_weight_st2ss", "1")]
TUPLES = ["--loss", "sare_ind", "--tuple_size", "2", "--neg_num", "2", "--pos_num", "1", "--cache_size", "6"]
METHODS = {
    "ours_rkdg": ["--rkdgloss_weight", "1", *RELATIONS, "--val_fraction", "0.1", "--val_min_queries", "4"],
    "asht": ["--loss", "RankingCrossEntropy"],
    "wakd": [*TUPLES, "--wakd_vectors", "embedding", "--wakd_kd", "vlad", "--generations", "2", "--epochs", "2"],
    "sckd": ["--SCmodule", "2", "3", "--hintmodule", "3", "--batches", "items"],
    "whiten_mtd": ["--loss", "none", "--strategy", "maxrand"],
    "crd": ["--crd_negatives", "8", "--batch_expansion_rate", "1.5", "--batch_size_limit", "16"],
}


def toy(options: TrainOptions, folder: Path) -> dict[str, Any]:
    """A run in float64, in a process of its own: 20 steps of batch norm and Adam multiply float32's roundings."""
    torch.set_default_dtype(torch.float64)
    move = Context.move

    def wide(self: Context, batch: dict[str, Any]) -> dict[str, Any]:
        wider = {
            name: value.double()
            for name, value in batch.items()
            if torch.is_tensor(value) and value.is_floating_point()
        }
        return move(self, {**batch, **wider})

    Context.move = wide
    trainer = run_toy(options, folder)
    lines = [json.loads(line) for line in (trainer.folder.path / "metrics.jsonl").read_text().splitlines()]
    return {
        "network": trainer.network.state_dict(),
        "distiller": trainer.distiller.state_dict(),
        "loss": [line["train/loss"] for line in lines if "train/loss" in line],
        "best": trainer.progress.best,
        "batch": getattr(trainer.sampler, "batch_size", 0),
    }


@pytest.mark.parametrize("method", METHODS)
def test_one_two_and_four_processes_end_alike(method, tmp_path):
    found = []
    for count in (1, 2, 4):
        folder = tmp_path / f"{count}"
        options = options_of(
            folder, "--distil_method", method, "--train_batch_size", "10", "--epochs", "7", *METHODS[method]
        )
        ToyData(folder / "data")
        each = in_processes(count, partial(toy, options, folder), folder / "work")
        for other in each[1:]:
            torch.testing.assert_close(other["network"], each[0]["network"], rtol=0, atol=0)
        found.append(each[0])
    assert len(found[0]["loss"]) >= STEPS
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-6, atol=1e-7)
