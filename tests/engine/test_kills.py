"""Runs of about 60 steps, killed (SIGKILL) 20 times each, end with the very weights of the undisturbed run.

The trainer itself, small data and networks: SIGKILL at random moments, several while saving, the newest
checkpoint damaged once; restarted by the same command each time.
"""

from pathlib import Path

import pytest

from tests.engine.killing import finish, flip_a_bit, kill_again_and_again
from tests.engine.test_resume import EVERY, same
from tests.engine.toy_run import options_of, run_toy

pytestmark = pytest.mark.slow
CASES = [
    ("memory bank", "20", "2"),
    ("mined tuples in generations", "4", "0"),
    ("batch expansion and milestones", "28", "2"),
]
"""Of tests/engine/test_resume.py, with epochs for about 60 steps and data-loader processes."""
KILLS = 20


@pytest.mark.parametrize(("case", "epochs", "workers"), CASES)
def test_killed_twenty_times_a_run_ends_the_same(tmp_path, case, epochs, workers):
    flags = [*EVERY[case], "--epochs", epochs]
    straight = run_toy(options_of(tmp_path / "straight", *flags), tmp_path / "straight")
    last = straight.progress.step
    again = ["--num_workers", workers, "--resume", "auto", "--save_every", "2"]
    options = options_of(tmp_path / "cut", *flags, *again)
    folder, said = tmp_path / "cut" / "logs" / "toy", tmp_path / "said.txt"

    def work() -> None:
        run_toy(options, tmp_path / "cut")

    kills, saving = kill_again_and_again(work, folder, said, times=KILLS, damage=flip_a_bit)
    assert last >= 55
    assert kills == KILLS
    assert saving >= 3
    finish(work, said)
    assert same(run_toy(options, tmp_path / "cut"), straight)
    assert "goes on from previous.ckpt" in said.read_text()
    assert_steps_logged_once(folder, last)


def assert_steps_logged_once(folder: Path, last: int) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    assert [event.step for event in events.Scalars("train/loss")] == list(range(1, last + 1))
