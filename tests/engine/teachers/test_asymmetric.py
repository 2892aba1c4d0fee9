"""A student in its teacher's map: against the slow way, and what rotations, offsets and equality must give."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor

from distilplace.datasets.benchmarks import LandmarkSet, VideoSet
from distilplace.datasets.records import Benchmark, EvaluationSet, PlaceRecord, RankingRules
from distilplace.datasets.relations import true_neighbours
from distilplace.engine.scoring import score_table
from distilplace.engine.teachers.asymmetric import Outputs, compare
from distilplace.evaluation.retrieval.asymmetric import ACROSS, STUDENT, TEACHER, AsymmetricResult
from distilplace.evaluation.retrieval.bootstrap import with_certainty
from distilplace.evaluation.retrieval.cosines import OTHER, SAME, TRUE
from distilplace.evaluation.retrieval.predictions import predictions_of

PLACES, WIDTH = 30, 12
LIDAR, IMAGE = "student -> LiDAR part", "student -> image part"


def drives(rules: RankingRules | None = None) -> EvaluationSet:
    """Three drives along one street, a place every 4 m; true within 5 m: two or three places of each other drive."""
    runs = [
        [PlaceRecord(f"{run}/{place}", run, None, (), 4.0 * place, 0.0) for place in range(PLACES)] for run in "abc"
    ]
    return EvaluationSet("s", list("abc"), runs, runs, true_neighbours(runs, runs, 5.0), 5.0, rules or RankingRules())


def embedded(noise: float, seed: int, width: int = WIDTH) -> Tensor:
    """float64 [3 * PLACES, width]: what is seen of each place, plus noise of every drive's own."""
    random = np.random.default_rng(0)
    seen = np.tile(random.standard_normal((PLACES, width)), (3, 1))
    return torch.from_numpy(seen + noise * np.random.default_rng(seed).standard_normal(seen.shape))


def outputs(tested: Tensor, training: Tensor | None = None, **parts: Tensor) -> Outputs:
    return Outputs(
        {"embedding": tested, **parts},
        {"embedding": tested if training is None else training, **parts},
    )


def recall(result: AsymmetricResult, space: str, direction: str) -> float:
    return result.spaces[space].directions[direction].recall[1]


def slow_recall(asked: np.ndarray, found: np.ndarray, test: EvaluationSet) -> float:
    """R@1 pair of runs by pair of runs, query by query."""
    row = {record.key: index for index, record in enumerate(test.distinct_records())}
    means = []
    for m, n in product(range(3), range(3)):
        hits = []
        for query, entry in enumerate(test.query_sets[n].values()):
            if m == n or not len(entry.get(m, ())):
                continue
            one = asked[row[test.queries[n][query].key]]
            items = [found[row[record.key]] for record in test.database[m]]
            cosines = [float(one @ each / math.sqrt((one @ one) * (each @ each))) for each in items]
            hits.append(int(np.argmax(cosines)) in entry[m])
        if hits:
            means.append(100.0 * sum(hits) / len(hits))
    return sum(means) / len(means)


def test_every_direction_in_both_spaces_is_what_the_slow_way_finds():
    test, student, teacher = drives(), embedded(1.5, 1) + 3.0, embedded(0.8, 2) - 2.0
    training = student[::3] + 0.1, teacher[::2] - 0.1
    result = compare("t", outputs(student, training[0]), outputs(teacher, training[1]), test)
    assert result.directions == [STUDENT, ACROSS, TEACHER]
    sides = {"student": (student, training[0]), "teacher": (teacher, training[1])}
    for direction in result.directions:
        asked, found = (sides[name] for name in direction.split(" -> "))
        assert recall(result, "raw", direction) == pytest.approx(slow_recall(asked[0].numpy(), found[0].numpy(), test))
        centred = [(tested - mean.mean(dim=0)).numpy() for tested, mean in (asked, found)]
        assert recall(result, "centred", direction) == pytest.approx(slow_recall(*centred, test))
    raw = result.spaces["raw"]
    share = 100 * raw.directions[ACROSS].score / raw.directions[TEACHER].score
    assert raw.kept(TEACHER) == pytest.approx(share)
    assert 0 < share < 100


def test_a_direction_is_as_sure_as_the_results_table_says():
    """By the bootstrap over places that a test ends with; landmarks keep the intervals of their own."""
    test, student, teacher = drives(), embedded(1.5, 1), embedded(0.8, 2)
    spaces = compare("t", outputs(student), outputs(teacher), test).spaces
    keys = [record.key for record in test.distinct_records()]
    for direction, asked, found in ((STUDENT, student, student), (ACROSS, student, teacher)):
        result = score_table(keys, {"embedding": asked}, test, {"embedding": found})
        full = with_certainty(result, predictions_of(result, test), test)
        measured = spaces["raw"].directions[direction].intervals
        assert measured["R@1"] == full.intervals()["R@1"] != result.intervals()["R@1"]
        assert measured["R@1 %"] == full.intervals()["R@1 %"]
    pictures, rows = landmarks()
    own = score_table([record.key for record in pictures.distinct_records()], {"embedding": rows}, pictures)
    direction = compare("t", outputs(rows), outputs(rows), pictures).spaces["raw"].directions[STUDENT]
    assert direction.intervals == own.intervals()


def test_a_rotation_of_the_teacher_is_chance_in_its_map_and_as_good_in_its_own():
    test, teacher = drives(), embedded(0.1, 1)
    turn = torch.linalg.qr(torch.from_numpy(np.random.default_rng(5).standard_normal((WIDTH, WIDTH))))[0]
    result = compare("t", outputs(teacher @ turn), outputs(teacher), test)
    for space in ("raw", "centred"):
        assert recall(result, space, STUDENT) == pytest.approx(recall(result, space, TEACHER)) == pytest.approx(100.0)
        assert recall(result, space, ACROSS) < 3 * result.chance_recall[1] < 50


def test_an_equal_student_has_equal_columns_and_centring_undoes_a_common_offset():
    test, teacher = drives(), embedded(0.7, 1)
    same = compare("t", outputs(teacher), outputs(teacher), test)
    for space in ("raw", "centred"):
        assert len({recall(same, space, direction) for direction in same.directions}) == 1
        assert same.spaces[space].kept(TEACHER) == same.spaces[space].kept(STUDENT) == pytest.approx(100.0)
    shifted = compare("t", outputs(teacher + torch.arange(WIDTH) * 5.0), outputs(teacher), test)
    assert recall(shifted, "raw", ACROSS) < 0.5 * recall(same, "raw", ACROSS)
    assert recall(shifted, "centred", ACROSS) == pytest.approx(recall(same, "centred", ACROSS))


def test_cosines_of_single_pairs_are_those_of_the_pairs_that_they_name():
    rules = RankingRules(excluded={(0, 1): [[place] for place in range(PLACES)]})
    test, student, teacher = drives(rules), embedded(0.5, 1).numpy(), embedded(0.5, 2).numpy()
    spreads = compare("t", outputs(torch.from_numpy(student)), outputs(torch.from_numpy(teacher)), test).spaces["raw"]
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (student, teacher)]
    table = unit[0] @ unit[1].T
    kinds: dict[str, list[float]] = {SAME: list(table.diagonal()), TRUE: [], OTHER: []}
    for (n, i), (m, j) in product(product(range(3), range(PLACES)), repeat=2):
        if m != n and not ((m, n) == (0, 1) and i == j):
            kind = TRUE if abs(i - j) * 4.0 <= 5.0 else OTHER
            kinds[kind].append(table[n * PLACES + i, m * PLACES + j])
    for kind, values in kinds.items():
        found = spreads.cosines[kind]
        assert (found.mean, found.deviation) == pytest.approx((np.mean(values), np.std(values)))
        assert found.pairs == len(values)


def test_a_part_is_compared_with_the_students_numbers_at_its_place():
    test, student, cloud, image = drives(), embedded(1.0, 1), embedded(0.6, 2, 4), embedded(0.6, 3, 8)
    teacher = outputs(torch.cat((cloud, image), dim=1), cloud_embedding=cloud, image_embedding=image)
    result = compare("t", outputs(student), teacher, test)
    assert result.directions == [STUDENT, ACROSS, LIDAR, IMAGE, TEACHER]
    for direction, part, columns in ((LIDAR, cloud, slice(0, 4)), (IMAGE, image, slice(4, 12))):
        expected = slow_recall(student[:, columns].numpy(), part.numpy(), test)
        assert recall(result, "raw", direction) == pytest.approx(expected)
    elsewhere = outputs(torch.cat((image, cloud), dim=1).flip(1), cloud_embedding=cloud)
    assert LIDAR in compare("t", outputs(student), elsewhere, test).absent


def test_other_widths_are_absent_and_say_why_and_without_training_outputs_nothing_is_centred():
    test, student, teacher = drives(), embedded(0.5, 1), embedded(0.5, 2, 7)
    result = compare("t", outputs(student), outputs(teacher), test)
    assert result.absent == {ACROSS: "12 numbers on the left, 7 on the right: no cosine between them"}
    assert [*result.spaces["raw"].directions] == [STUDENT, TEACHER]
    assert result.spaces["raw"].kept(TEACHER) is None
    bare = compare("t", Outputs({"embedding": student}, {}), outputs(student), test)
    assert [*bare.spaces] == ["raw"]


def test_in_the_aligned_space_the_teacher_alone_is_changed():
    """As for a student of a whitened space, which is as wide as that and not as the teacher."""
    test, student, teacher = drives(), embedded(0.5, 1, 5), embedded(0.5, 2)
    aligned = teacher[:, :5] + 1.0
    own = outputs(teacher)
    result = compare("t", outputs(student), Outputs(own.tested, own.training, None, aligned), test)
    assert [*result.spaces] == ["raw", "centred", "aligned"]
    assert [*result.spaces["aligned"].directions] == result.directions
    assert recall(result, "aligned", ACROSS) == pytest.approx(slow_recall(student.numpy(), aligned.numpy(), test))
    assert recall(result, "aligned", STUDENT) == recall(result, "raw", STUDENT)


def landmarks() -> tuple[Benchmark, Tensor]:
    records = [PlaceRecord(str(index), "r", None, (), 0.0, 0.0) for index in range(24)]
    of = [np.array([query, query + 6]) for query in range(6)]
    none = [np.empty(0, dtype=np.int64)] * 6
    random = torch.from_numpy(np.random.default_rng(0).standard_normal((6, 8)))
    return LandmarkSet("l", records[:18], records[18:], of, none, none), random.repeat(4, 1)


def videos() -> tuple[Benchmark, Tensor]:
    names = [f"v{index}" for index in range(9)]
    frames = {name: [PlaceRecord(f"{name}/{k}", name, None, (), 0.0, 0.0) for k in range(2)] for name in names}
    labels = [{f"v{3 + index}": 1} for index in range(3)]
    random = torch.from_numpy(np.random.default_rng(0).standard_normal((3, 8)))
    return VideoSet("v", frames, names[:3], labels, names[6:]), random.repeat(3, 1).repeat_interleave(2, dim=0)


@pytest.mark.parametrize("made", [landmarks, videos])
def test_landmarks_and_videos_are_searched_in_the_teachers_map(made):
    """Equal outputs find everything; those of other places, each at another's, find what the slow way says: less."""
    test, rows = made()
    equal = compare("t", outputs(rows), outputs(rows), test).spaces["raw"].directions
    assert equal[ACROSS].cells == equal[TEACHER].cells == equal[STUDENT].cells
    assert equal[ACROSS].score == pytest.approx(100.0)
    moved = compare("t", outputs(rows.roll(2, dims=0)), outputs(rows), test).spaces["raw"].directions
    assert moved[ACROSS].score < 80 < moved[TEACHER].score == pytest.approx(100.0)
