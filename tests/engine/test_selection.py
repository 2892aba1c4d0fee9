"""Which epoch is kept, how often it is validated and saved."""

import json

import pytest
from safetensors.torch import load_file

from distilplace.common.errors import UserError
from distilplace.datasets.benchmarks import LandmarkSet, PoseSet, VideoSet
from distilplace.engine.runs.state import Progress
from distilplace.engine.selection import Selection, query_count
from tests.engine.toy_run import PLACES, ToyData, options_of, run_toy

VALIDATED = ["--val_fraction", "0.1", "--epochs", "5"]


def validated(folder) -> list[int]:
    lines = [json.loads(line) for line in (folder / "logs" / "toy" / "metrics.jsonl").read_text().splitlines()]
    return [line["step"] for line in lines if "validation/recall@1" in line]


def test_every_query_counts_once(tmp_path):
    import numpy as np

    assert query_count(ToyData(tmp_path).evaluation_set()) == 2 * PLACES
    none = ToyData(tmp_path).evaluation_set()
    none.query_sets[0][3][1] = []
    assert query_count(none) == 2 * PLACES - 1
    records = ToyData(tmp_path).records
    assert query_count(PoseSet("p", records[:5], np.zeros((5, 7)))) == 5
    empty, one = np.empty(0, dtype=np.int64), np.array([0])
    assert query_count(LandmarkSet("l", records[:2], records[2:5], [one, empty, empty], [empty, one, empty], [])) == 2
    assert query_count(VideoSet("v", {}, ["a", "b"], [{"c": 1}, {"c": 0}], [])) == 1


def test_a_split_too_small_to_choose_by_is_logged_and_the_last_epoch_kept(tmp_path, monkeypatch):
    falling(monkeypatch, [50.0, 40.0, 30.0, 20.0, 10.0])
    trainer = run_toy(options_of(tmp_path, *VALIDATED), tmp_path)
    log = (tmp_path / "logs" / "toy" / "log.txt").read_text()
    assert "validation split of 24 queries is too small to choose an epoch by" in log
    assert len(validated(tmp_path)) == 5
    assert trainer.progress.best_epoch == 5
    trainer = run_toy(options_of(tmp_path / "b", *VALIDATED, "--val_min_queries", "24"), tmp_path / "b")
    assert "too small" not in (tmp_path / "b" / "logs" / "toy" / "log.txt").read_text()
    assert trainer.progress.best_epoch == 1


def falling(monkeypatch, values) -> None:
    """Let the validations find these recalls."""
    from distilplace.evaluation.retrieval.results import RetrievalResult

    found = iter([*values, *values])
    monkeypatch.setattr(RetrievalResult, "selection_score", property(lambda self: next(found)))


def test_ties_go_to_the_later_epoch_and_the_log_says_so(tmp_path, monkeypatch):
    falling(monkeypatch, [50.0, 60.0, 60.0, 40.0, 60.0])
    trainer = run_toy(options_of(tmp_path, *VALIDATED, "--val_min_queries", "0"), tmp_path)
    assert trainer.progress.best_epoch == 5
    log = (tmp_path / "logs" / "toy" / "log.txt").read_text()
    assert log.count("as good as epoch 2: the later one is kept") == 1
    assert log.count("as good as epoch 3: the later one is kept") == 1


def test_epochs_are_validated_every_few_and_at_the_end(tmp_path):
    trainer = run_toy(options_of(tmp_path, *VALIDATED, "--eval_every", "2"), tmp_path)
    assert [step // (trainer.progress.step // 5) for step in validated(tmp_path)] == [2, 4, 5]


@pytest.mark.parametrize(("every", "steps"), [(2, [2, 3, 4, 6, 6]), (0, [3, 6])])
def test_checkpoints_are_written_every_few_steps_and_after_epochs(tmp_path, every, steps):
    saved = []

    def watch(trainer) -> None:
        save = trainer.save

        def note() -> None:
            saved.append(trainer.progress.step)
            save()

        trainer.save = note

    trainer = run_toy(options_of(tmp_path, "--epochs", "2", "--save_every", str(every)), tmp_path, watch)
    assert trainer.progress.step == 6
    assert saved == steps


def test_weights_of_every_few_epochs_are_kept(tmp_path):
    run_toy(options_of(tmp_path, "--epochs", "5", "--save_epoch_freq", "2"), tmp_path)
    models = tmp_path / "logs" / "toy" / "models"
    assert {path.name for path in models.iterdir()} == {
        "best.safetensors", "last.safetensors", "epoch_2.safetensors", "epoch_4.safetensors"
    }  # fmt: skip
    two, four = (load_file(models / f"epoch_{epoch}.safetensors")["fc.weight"] for epoch in (2, 4))
    assert not two.equal(four)


def test_progress_of_another_kind_is_refused():
    state = Progress(epoch=2, best=1.5, sums={"loss": 1.0}).state()
    assert Progress.restored(state, "last.ckpt") == Progress(epoch=2, best=1.5, sums={"loss": 1.0})
    for change in ({"epoch": "2"}, {"best": None}, {"sums": 3}, {"more": 1}, {"step": True}):
        with pytest.raises(UserError, match=r"last\.ckpt does not say how far"):
            Progress.restored({**state, **change}, "last.ckpt")


def test_the_epoch_may_be_chosen_by_another_recall(tmp_path, monkeypatch):
    """R@1 falls from epoch to epoch while R@5 has its best in the third."""
    from distilplace.evaluation.retrieval.results import RetrievalResult

    one, five = iter([50.0, 40.0, 30.0, 20.0, 10.0]), iter([60.0, 70.0, 90.0, 80.0, 80.0])
    made = RetrievalResult.__init__

    def with_recalls(self, *args, **given) -> None:
        made(self, *args, **given)
        self.recall = {**self.recall, 1: next(one, 0.0), 5: next(five, 0.0)}

    monkeypatch.setattr(RetrievalResult, "__init__", with_recalls)
    flags = [*VALIDATED, "--val_min_queries", "0", "--select_by", "R@5"]
    trainer = run_toy(options_of(tmp_path, *flags), tmp_path)
    assert (trainer.progress.best_epoch, trainer.progress.best) == (3, 90.0)
    assert "R@1 30.00, R@5 90.00" in (tmp_path / "logs" / "toy" / "log.txt").read_text()


def test_recalls_of_what_is_not_retrieved_are_refused(tmp_path):
    import numpy as np

    poses = PoseSet("p", ToyData(tmp_path).records[:5], np.zeros((5, 7)))
    with pytest.raises(UserError, match="--select_by R@5: p is not measured by recall"):
        Selection(poses, 0, "R@5")
    assert Selection(poses, 0).chooses
