"""Which measures a benchmark gets, and from which outputs."""

import numpy as np
import pytest
import torch

from distilplace.common.errors import UserError
from distilplace.datasets.benchmarks import LandmarkSet, PoseSet, VideoSet
from distilplace.datasets.records import EvaluationSet, PlaceRecord, RankingRules
from distilplace.engine.scoring import score_table


def places(run: str, count: int) -> list[PlaceRecord]:
    return [PlaceRecord(f"{run}/{i}", run, None, (), float(i), 0.0) for i in range(count)]


def keyed(*runs: list[PlaceRecord]) -> list[str]:
    return [record.key for run in runs for record in run]


def test_places_are_ranked_by_the_sets_own_rules():
    """Of a panorama only the best-ranked image counts, so that the right image comes second, not third."""
    database, queries = places("database", 3), places("queries", 1)
    embeddings = torch.tensor([[1.0, 0.0], [0.99, 0.1], [0.8, 0.6], [1.0, 0.0]])
    entries = {0: {"query": queries[0].key, "northing": 0.0, "easting": 0.0, 0: [2]}}
    for groups, second in (({}, 0.0), ({0: np.array([0, 0, 1])}, 100.0)):
        test = EvaluationSet(
            "s", ["database", "queries"], [database, []], [[], queries], [{}, entries], 1.0, RankingRules(groups=groups)
        )
        result = score_table(keyed(database, queries), {"embedding": embeddings}, test)
        assert result.recall[2] == second


def test_poses_are_read_from_the_output_of_that_name():
    records = places("r", 3)
    poses = np.tile([1.0, 2.0, 3.0, 1.0, 0.0, 0.0, 0.0], (3, 1))
    found = torch.tensor(poses).float()
    found[1, 0] += 0.5
    table = {"embedding": torch.zeros(3, 2), "pose": found[[2, 0, 1]]}
    result = score_table(keyed([records[2], records[0], records[1]]), table, PoseSet("p", records, poses))
    assert result.selection_score == pytest.approx(0.0, abs=1e-6)
    assert np.asarray(result.metres).tolist() == pytest.approx([0.0, 0.5, 0.0], abs=1e-6)
    with pytest.raises(UserError, match="'pose'"):
        score_table(keyed(records), {"embedding": torch.zeros(3, 2)}, PoseSet("p", records, poses))


def test_landmarks_and_videos_find_their_rows_by_key():
    database, queries = places("db", 4), places("q", 1)
    embeddings = torch.eye(5)[[0, 1, 2, 3, 1]]
    empty = [np.empty(0, dtype=np.int64)]
    test = LandmarkSet("l", database, queries, [np.array([1])], empty, empty)
    assert score_table(keyed(database, queries), {"embedding": embeddings}, test).selection_score == pytest.approx(
        100.0
    )
    videos = {name: places(name, 2) for name in ("a", "b", "c")}
    rows = torch.eye(3)[[0, 0, 1, 1, 0, 0]]
    clips = VideoSet("v", videos, ["a"], [{"c": 1, "b": 0}], [])
    assert score_table(keyed(*videos.values()), {"embedding": rows}, clips).selection_score == pytest.approx(100.0)
