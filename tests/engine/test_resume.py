"""Stopped or killed anywhere, a run ends with the very weights of the undisturbed one."""

import json
from pathlib import Path

import pytest
import torch

from distilplace.common.errors import UserError
from distilplace.engine.program import Interrupted
from distilplace.engine.trainer import Trainer
from tests.engine.killing import flip_a_bit, kill_again_and_again
from tests.engine.toy_run import Killed, ask_to_stop, before_step, kill, noting_sizes, options_of, run_toy

EXPANSION = ["--batch_size_limit", "16", "--batch_expansion_rate", "1.25", "--batch_expansion_th", "1"]
EXPANSION += ["--margin", "0.02", "--epochs", "5"]
TUPLES = ["--loss", "sare_ind", "--tuple_size", "2", "--neg_num", "2", "--pos_num", "1", "--cache_size", "4"]
CASES = {
    "batch expansion and milestones": [*EXPANSION, "--milestones", "1_3"],
    "cosine per step": ["--scheduler", "CosineAnnealingLR", "--scheduler_step", "step", "--optimizer", "SGD"],
    "mined tuples in generations": [*TUPLES, "--generations", "2", "--epochs", "2", "--milestones", "1"],
    "memory bank": ["--distil_method", "crd", "--crd_negatives", "5"],
}
MORE = {
    "milestones": ["--milestones", "1_2", "--epochs", "4"],
    "cosine": ["--scheduler", "CosineAnnealingLR", "--optimizer", "AdamW"],
    "owned parameters": ["--distil_method", "cc", "--kd", "hint@layer2:1", "--kd", "vid@layer2:1", "--auto_scale"],
    "owned, in generations": ["--distil_method", "cc", "--kd", "crd:1", "--generations", "2", "--epochs", "2"],
    "relations": ["--distil_method", "ours_rkdg", "--rkdgloss_weight", "1", "--train_batch_split_size", "4"],
}
EVERY = {**CASES, **MORE}


def states(trainer: Trainer) -> dict[str, torch.Tensor]:
    found = {name: trainer._parts()[name].state_dict() for name in ("network", "distiller") if name in trainer._parts()}
    return {f"{part}.{name}": value.clone() for part, state in found.items() for name, value in state.items()}


def same(one: Trainer, other: Trainer) -> bool:
    mine, theirs = states(one), states(other)
    equal = mine.keys() == theirs.keys() and all(torch.equal(value, theirs[name]) for name, value in mine.items())
    rates = [[group["lr"] for group in each.optimizer.param_groups] for each in (one, other)]
    return equal and rates[0] == rates[1] and one.progress == other.progress


@pytest.mark.parametrize("flags", CASES.values(), ids=CASES.keys())
def test_a_run_stopped_and_killed_in_mid_epoch_ends_the_same(tmp_path, flags):
    straight = run_toy(options_of(tmp_path / "straight", *flags), tmp_path / "straight")
    last = straight.progress.step
    options = options_of(tmp_path / "cut", *flags, "--resume", "auto", "--save_every", "2")
    for step, act, error in ((2, ask_to_stop, Interrupted), (last - 1, kill, Killed)):
        with pytest.raises(error):
            run_toy(options, tmp_path / "cut", before_step(step, act))
    assert same(run_toy(options, tmp_path / "cut"), straight)


@pytest.mark.slow
@pytest.mark.parametrize("flags", EVERY.values(), ids=EVERY.keys())
def test_a_run_stopped_or_killed_anywhere_ends_the_same(tmp_path, flags):
    straight = run_toy(options_of(tmp_path / "straight", *flags), tmp_path / "straight")
    last = straight.progress.step
    for step in sorted({1, 2, last // 2, last // 2 + 1, last - 1, last}):
        for act, error in ((ask_to_stop, Interrupted), (kill, Killed)):
            here = tmp_path / f"{act.__name__}{step}"
            options = options_of(here, *flags, "--resume", "auto", "--save_every", "2")
            with pytest.raises(error):
                run_toy(options, here, before_step(step, act))
            assert same(run_toy(options, here), straight), (act.__name__, step)


def test_the_cases_do_what_they_stand_for(tmp_path):
    sizes: list[int] = []
    trainer = run_toy(options_of(tmp_path, *CASES["batch expansion and milestones"]), tmp_path, noting_sizes(sizes))
    assert {8, 10} <= set(sizes)
    assert [group["lr"] for group in trainer.optimizer.param_groups] == pytest.approx([1e-6, 1e-5])


def test_an_epoch_that_was_interrupted_is_averaged_over_all_its_steps(tmp_path):
    """Batches grow by the share of active triplets of the epoch, of which a resumed run has seen only the rest."""
    means: dict[str, list[dict[str, float]]] = {"straight": [], "stopped": []}

    def noting(name: str):
        def watch(trainer: Trainer) -> None:
            grow = trainer._grow_batch

            def note(found: dict[str, float]) -> None:
                means[name].append({key: value for key, value in found.items() if key != "places_per_second"})
                grow(found)

            trainer._grow_batch = note

        return watch

    run_toy(options_of(tmp_path / "straight"), tmp_path / "straight", noting("straight"))
    options = options_of(tmp_path / "stopped", "--resume", "auto")
    with pytest.raises(Interrupted):
        run_toy(options, tmp_path / "stopped", before_step(2, ask_to_stop))
    run_toy(options, tmp_path / "stopped", noting("stopped"))
    assert means["stopped"] == means["straight"]


VALIDATED = ["--val_fraction", "0.1", "--val_min_queries", "5"]


@pytest.mark.parametrize(
    ("step", "act", "error"), [(2, kill, Killed), (5, ask_to_stop, Interrupted), (6, kill, Killed)]
)
def test_no_step_is_logged_twice(tmp_path, step, act, error):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    options = options_of(tmp_path, "--resume", "auto", "--save_every", "3", *VALIDATED)
    with pytest.raises(error):
        run_toy(options, tmp_path, before_step(step, act))
    trainer = run_toy(options, tmp_path)
    assert_logged_once(tmp_path / "logs" / "toy", trainer.progress.step, EventAccumulator)


def test_a_run_killed_between_validation_and_checkpoint_logs_it_once(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    options = options_of(tmp_path, "--resume", "auto", "--save_every", "1", *VALIDATED)

    def die_when_saving_the_epoch(trainer: Trainer) -> None:
        save = trainer.save

        def save_or_die() -> None:
            if trainer.progress.epoch == 1 and trainer.progress.batch == 0:
                raise Killed
            save()

        trainer.save = save_or_die

    with pytest.raises(Killed):
        run_toy(options, tmp_path, die_when_saving_the_epoch)
    trainer = run_toy(options, tmp_path)
    assert_logged_once(tmp_path / "logs" / "toy", trainer.progress.step, EventAccumulator)


def assert_logged_once(folder: Path, steps: int, accumulator) -> None:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    trained = [line["step"] for line in lines if "train/loss" in line]
    assert trained == list(range(1, steps + 1))
    validated = [line["step"] for line in lines if "validation/recall@1" in line]
    assert validated == [steps // 3, 2 * steps // 3, steps]
    events = accumulator(str(folder))
    events.Reload()
    assert [event.step for event in events.Scalars("train/loss")] == trained
    assert [event.step for event in events.Scalars("validation/recall@1")] == validated
    assert [event.value for event in events.Scalars("train/loss")] == pytest.approx(
        [line["train/loss"] for line in lines if "train/loss" in line]
    )
    assert [event.step for event in events.Images("validation/retrievals")] == validated


def test_a_run_killed_before_its_first_checkpoint_starts_over_with_an_empty_log(tmp_path):
    options = options_of(tmp_path, "--resume", "auto")
    with pytest.raises(Killed):
        run_toy(options, tmp_path, before_step(3, kill))
    path = tmp_path / "logs" / "toy" / "metrics.jsonl"
    with path.open("a") as stream:
        stream.write('{"step": 99, "train/lo')  # what a write that was cut off leaves
    trainer = run_toy(options, tmp_path)
    lines = [json.loads(line)["step"] for line in path.read_text().splitlines()]
    assert lines == list(range(1, trainer.progress.step + 1))


def test_a_finished_run_is_prolonged(tmp_path):
    """By milestones the longer run is the very one that had been planned so."""
    straight = run_toy(options_of(tmp_path / "long", "--epochs", "5", "--milestones", "2_4"), tmp_path / "long")
    run_toy(options_of(tmp_path / "short", "--epochs", "2", "--milestones", "2_4"), tmp_path / "short")
    longer = options_of(tmp_path / "short", "--epochs", "5", "--milestones", "2_4", "--resume", "auto")
    assert same(run_toy(longer, tmp_path / "short"), straight)
    assert "planned for 2 epochs" in (tmp_path / "short" / "logs" / "toy" / "log.txt").read_text()


@pytest.mark.parametrize("step", ["epoch", "step"])
def test_a_prolonged_cosine_takes_the_rates_of_the_longer_run_and_says_so(tmp_path, step):
    cosine = ["--scheduler", "CosineAnnealingLR", "--scheduler_step", step, "--lr_min", "1e-6"]
    planned = run_toy(options_of(tmp_path / "long", "--epochs", "6", *cosine), tmp_path / "long")
    run_toy(options_of(tmp_path / "short", "--epochs", "2", *cosine), tmp_path / "short")
    rates = {}

    def note(trainer: Trainer) -> None:
        rates[trainer.progress.step] = [group["lr"] for group in trainer.optimizer.param_groups]

    longer = options_of(tmp_path / "short", "--epochs", "6", *cosine, "--resume", "auto")
    run_toy(longer, tmp_path / "short", note)
    lines = [
        json.loads(line) for line in (tmp_path / "long" / "logs" / "toy" / "metrics.jsonl").read_text().splitlines()
    ]
    ((begun, found),) = rates.items()
    expected = next(line for line in lines if line["step"] == begun + 1)
    assert found == pytest.approx([expected["train/lr_image"], expected["train/lr_cloud"]])
    assert planned.progress.step == 3 * begun
    assert "cosine schedule now ends with epoch 6" in (tmp_path / "short" / "logs" / "toy" / "log.txt").read_text()


@pytest.mark.slow  # 5 s
def test_killed_at_random_moments_a_run_ends_the_same(tmp_path):
    """With SIGKILL, several times while saving, the newest checkpoint damaged once (tests/engine/test_kills.py)."""
    straight = run_toy(options_of(tmp_path / "straight", "--epochs", "5"), tmp_path / "straight")
    options = options_of(tmp_path / "cut", "--epochs", "5", "--resume", "auto", "--save_every", "1")
    folder, said = tmp_path / "cut" / "logs" / "toy", tmp_path / "said.txt"

    def work() -> None:
        run_toy(options, tmp_path / "cut")

    kill_again_and_again(work, folder, said, times=4, damage=flip_a_bit)
    assert same(run_toy(options, tmp_path / "cut"), straight)
    assert "last.ckpt is damaged (its SHA-256 does not fit): this run goes on from previous.ckpt" in said.read_text()


def test_a_teacher_that_changed_is_not_learned_from(tmp_path):
    options = options_of(tmp_path, "--distil_method", "cc", "--resume", "auto", "--save_every", "1")
    with pytest.raises(Killed):
        run_toy(options, tmp_path, before_step(2, kill))
    with pytest.raises(UserError, match=r"teacher minklocmmcat is not the one that this run began with"):
        run_toy(options, tmp_path, teacher_seed=6)
    run_toy(options, tmp_path)
