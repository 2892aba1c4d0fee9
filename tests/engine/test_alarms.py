"""Alarms of training: the statistics are those of their definitions, and every alarm is given once."""

import logging

import pytest
import torch

from distilplace.engine.alarms import LINE, Alarms, embedding_statistics


def masks(count):
    same = torch.arange(count)[:, None] // 2 == torch.arange(count)[None] // 2
    return same & ~torch.eye(count, dtype=torch.bool), ~same


def test_statistics_are_those_of_the_covariance_and_the_pairs():
    embeddings = torch.randn(12, 5, dtype=torch.float64)
    positives, negatives = masks(12)
    found = embedding_statistics(embeddings, positives, negatives)
    unit = embeddings / embeddings.norm(dim=1, keepdim=True)
    covariance = torch.cov(unit.T, correction=0)
    eigenvalues = torch.linalg.eigvalsh(covariance)
    assert found["embedding_variance"] == pytest.approx(float(eigenvalues.sum()))
    assert found["embedding_rank"] == pytest.approx(float(eigenvalues.sum() ** 2 / (eigenvalues**2).sum()))
    near = [float(unit[i] @ unit[i ^ 1]) for i in range(12)]
    far = [float(unit[i] @ unit[j]) for i in range(12) for j in range(12) if i // 2 != j // 2]
    assert found["similarity_gap"] == pytest.approx(sum(near) / len(near) - sum(far) / len(far))


def test_a_line_a_point_and_unknown_pairs():
    line = torch.stack([torch.tensor([1.0, 0.1 * i]) for i in range(8)])
    assert embedding_statistics(line, None, None)["embedding_rank"] < LINE
    point = embedding_statistics(torch.ones(8, 4), *masks(8))
    assert point["embedding_variance"] < 1e-12
    assert "similarity_gap" not in embedding_statistics(line, torch.zeros(8, 8, dtype=torch.bool), masks(8)[1])


@pytest.mark.parametrize(
    ("means", "told"),
    [
        ({"embedding_variance": 1e-8, "embedding_rank": 1.0}, "nearly one and the same"),
        ({"embedding_variance": 0.1, "embedding_rank": 1.2}, "on one line"),
        ({"embedding_rank": 4.0, "similarity_gap": -0.1}, "no more alike"),
        ({"num_triplets": 16.0, "num_non_zero_triplets": 0.0}, "no triplet violates"),
        ({"final_num_triplets": 16.0, "final_num_non_zero_triplets": 0.0}, "no triplet violates"),
    ],
)
def test_each_alarm_is_given_once(means, told, caplog):
    alarms = Alarms()
    with caplog.at_level(logging.WARNING, "distilplace"):
        for epoch in (2, 3):
            alarms.look(epoch, means)
    (line,) = caplog.messages
    assert line.startswith("epoch 2: ")
    assert told in line


def test_a_healthy_run_is_silent(caplog):
    healthy = {"embedding_variance": 0.02, "embedding_rank": 5.0, "similarity_gap": 0.1, "num_triplets": 16.0}
    Alarms().look(1, {**healthy, "num_non_zero_triplets": 3.0})
    Alarms().look(1, {"similarity_gap": -0.1})  # nothing has been learned yet
    assert not caplog.messages
