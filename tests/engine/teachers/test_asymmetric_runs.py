"""Students of every published system are measured in their teachers' maps by one and the same code."""

import json
from pathlib import Path

import pytest

from distilplace.engine.embedding import Embedder
from distilplace.engine.reporting import entry_numbers
from distilplace.engine.teachers.asymmetric import TrainingFrames, compare_with_teachers
from distilplace.engine.teachers.loading import LoadedTeacher
from distilplace.evaluation.report.parts import ReportEntry
from distilplace.evaluation.retrieval.asymmetric import ACROSS, STUDENT, TEACHER
from tests.engine.toy_run import ToyNet, options_of, run_toy

METHODS = {
    "ours_rkdg": ["--rkdgloss_weight", "1", "--crosslogitsimloss_weight_tt2st", "1"],
    "asht": ["--loss", "RankingCrossEntropy"],
    "wakd": ["--wakd_vectors", "embedding", "--wakd_kd", "vlad"],
    "whiten_mtd": ["--loss", "none", "--batches", "pairs"],
}


@pytest.mark.parametrize("method", METHODS)
def test_every_methods_student_gets_the_columns(tmp_path: Path, method: str) -> None:
    flags = ["--distil_method", method, "--epochs", "1", "--milestones", "1", *METHODS[method]]
    trainer = run_toy(options_of(tmp_path, *flags), tmp_path)
    test, embedder = trainer.context.data.evaluation_set(), Embedder(trainer.context)
    own, theirs = (embedder.embed_and_score(network, test, "") for network in (trainer.network, ToyNet(seed=5)))
    teachers = [LoadedTeacher("toy", source, theirs[1], {}, theirs[0]) for source in trainer.teachers]
    frames = TrainingFrames(trainer.context, trainer.context.data.records)
    (found,) = compare_with_teachers(trainer.network, own, teachers, test, frames)
    assert found.directions == [STUDENT, ACROSS, TEACHER]
    assert not found.absent
    entry = ReportEntry("student", own[1], asymmetric=[found])
    numbers = json.loads(json.dumps(entry_numbers(entry)))["asymmetric"]["toy"]
    for space in ("raw", "centred"):
        assert set(numbers[space]["directions"]) == {STUDENT, ACROSS, TEACHER}
        assert numbers[space]["cosines"]["same frame"]["pairs"] == 24
    assert numbers["raw"]["directions"][STUDENT]["recall@1"] == own[1].recall[1]
    assert numbers["raw"]["directions"][TEACHER]["recall@1"] == theirs[1].recall[1]
