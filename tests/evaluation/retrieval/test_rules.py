"""Rules of image sets recomputed by loops: misses, exclusion, spatial suppression, the largest F1, what reports say."""

import json
import tracemalloc
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distilplace.common.errors import UserError
from distilplace.datasets.records import EvaluationSet, PlaceRecord, RankingRules
from distilplace.evaluation.report.kinds import kind_of
from distilplace.evaluation.report.parts import ReportEntry
from distilplace.evaluation.report.sections.contact_sheet import example_retrievals
from distilplace.evaluation.report.sections.places import choose_queries, retrieved
from distilplace.evaluation.report.writer import write_report
from distilplace.evaluation.retrieval import ranking
from distilplace.evaluation.retrieval.precision_recall import largest_f1, with_f1
from distilplace.evaluation.retrieval.ranking import NEVER
from distilplace.evaluation.retrieval.runs import chance_recall, evaluate_runs, recall_at

pytestmark = pytest.mark.filterwarnings("ignore:a database of .* is smaller than k")


def sets_of(truth):
    return [{}, {i: {"query": f"q{i}", "northing": 0.0, "easting": 0.0, 0: list(t)} for i, t in enumerate(truth)}]


def evaluate(database, queries, truth, rules, k=25, metric="cosine"):
    return evaluate_runs([database, []], [[], queries], sets_of(truth), metric, k, rules=rules)


def slow_ranking(similarity, groups, excluded):
    """Indices that count, best first: sort, drop the excluded, keep the first of each panorama."""
    order = [int(i) for i in sorted(range(len(similarity)), key=lambda i: (-similarity[i], i)) if i not in excluded]
    if groups is None:
        return order
    return [item for place, item in enumerate(order) if groups[item] not in [groups[other] for other in order[:place]]]


@st.composite
def worlds(draw):
    size, asked = draw(st.integers(1, 9)), draw(st.integers(1, 5))
    items = st.integers(0, size - 1)
    groups = draw(st.none() | st.lists(st.integers(-2, 3), min_size=size, max_size=size))
    starts = st.tuples(items, items).map(lambda ends: range(min(ends), max(ends) + 1))
    entry = st.lists(items, max_size=size) | starts
    excluded = draw(st.none() | st.lists(entry, min_size=asked, max_size=asked))
    truth = draw(st.lists(st.sets(items, max_size=3), min_size=asked, max_size=asked))
    seed = draw(st.integers(0, 1000))
    return size, asked, groups, excluded, truth, seed, draw(st.sampled_from(["skip", "miss"]))


@given(worlds(), st.sampled_from(["cosine", "euclidean"]), st.booleans())
@settings(max_examples=30, deadline=None)
def test_all_rules_together_equal_the_slow_loop(world, metric, ties):
    size, asked, groups, excluded, truth, seed, unmatched = world
    random = np.random.default_rng(seed)
    database, queries = random.standard_normal((size, 3)), random.standard_normal((asked, 3))
    if ties:
        database[:] = database[random.integers(0, min(2, size), size)]
    rules = RankingRules(
        unmatched=unmatched,
        groups={} if groups is None else {0: np.array(groups)},
        excluded={} if excluded is None else {(0, 1): excluded},
    )
    banned = [set(row) for row in excluded] if excluded is not None else [set()] * asked
    right = [set(true) - gone for true, gone in zip(truth, banned, strict=True)]
    if not any(right):
        with pytest.raises(UserError, match="no query has a true neighbour"):
            evaluate(database, queries, truth, rules, metric=metric)
        return
    result = evaluate(database, queries, truth, rules, k=5, metric=metric)
    unit = database / np.linalg.norm(database, axis=1, keepdims=True)
    hits, ranked = np.zeros((asked, 5), dtype=bool), result.top(0, 1, 25)
    for row in range(asked):
        values = unit @ queries[row] if metric == "cosine" else -((database - queries[row]) ** 2).sum(axis=1)
        expected = slow_ranking(np.round(values, 9), groups, banned[row])
        assert ranked[row].tolist() == expected + [-1] * (size - len(expected))
        for rank in range(5):
            hits[row, rank] = bool(right[row] & set(expected[: rank + 1]))
        places = [place for place, item in enumerate(expected, start=1) if item in right[row]]
        without = NEVER if unmatched == "miss" else 0
        assert result.pairs[0].ranks[row] == (min(places, default=NEVER) if right[row] else without)
    counted = [row for row in range(asked) if right[row] or unmatched == "miss"]
    assert list(result.recall.values()) == pytest.approx(100 * hits[counted].mean(axis=0))
    assert result.evaluated == len(counted)
    assert result.unmatched == sum(not true for true in right)
    for k in (1, 3):
        kept = [row for row in range(asked) if right[row]]
        share = recall_at(ranked[kept], [right[row] for row in kept], k) * len(kept) / len(counted)
        assert result.recall[k] == pytest.approx(share)
    assert result.chance[2] == pytest.approx(chance_recall(sets_of(truth), [size, 0], 2, rules))


def test_unmatched_queries_are_left_out_or_missed():
    database, queries = np.eye(3), np.eye(3)
    truth = [[0], [], [2]]
    left_out, missed = (evaluate(database, queries, truth, RankingRules(unmatched=rule)) for rule in ("skip", "miss"))
    assert (left_out.recall[25], left_out.evaluated, left_out.unmatched) == (100, 2, 1)
    assert missed.recall[25] == missed.one_percent_recall == pytest.approx(200 / 3)  # a miss even beyond the database
    assert (missed.evaluated, missed.unmatched) == (3, 1)
    assert missed.pairs[0].ranks.tolist() == [1, NEVER, 1]
    assert missed.chance[1] == pytest.approx(200 / 9)
    assert missed.chance[3] == pytest.approx(200 / 3)
    text = json.loads(json.dumps(missed.to_dict()))
    assert (text["unmatched"], text["pairs"][0]["unmatched"], text["extra"]) == (1, 1, {})
    with pytest.raises(UserError, match="no query has a true neighbour"):
        evaluate(database, queries, [[], [], []], RankingRules(unmatched="miss"))


def test_one_panorama_fills_the_first_twelve_results():
    # 12 images of panorama 7 look most like the query; the true place is panorama 3, next in line
    angles = np.concatenate([np.linspace(0.01, 0.1, 12), np.linspace(0.2, 0.3, 12)])
    database = np.column_stack([np.cos(angles), np.sin(angles)])
    groups = np.repeat([7, 3], 12)
    queries, truth = np.array([[1.0, 0.0]]), [range(12, 24)]
    plain = evaluate(database, queries, truth, None, k=13)
    suppressed = evaluate(database, queries, truth, RankingRules(groups={0: groups}), k=13)
    assert (plain.recall[12], plain.recall[13]) == (0, 100)
    assert (suppressed.recall[1], suppressed.recall[2]) == (0, 100)
    assert suppressed.top(0, 1, 4).tolist() == [[0, 12, -1, -1]]
    # an image whose better-ranked sibling is no true neighbour is suppressed with it
    hidden = evaluate(database, queries, [[1, 20]], RankingRules(groups={0: groups}))
    assert hidden.pairs[0].ranks.tolist() == [NEVER]
    assert hidden.recall[25] == 0
    assert (hidden.evaluated, hidden.unmatched) == (1, 0)


def test_a_frame_may_not_answer_itself_nor_its_recent_past():
    # a walk 0, 1, 2, 3 and back over 1, 0: only older frames answer, and not the two before
    line = np.array([0.0, 1, 2, 3, 1, 0])
    walk = np.column_stack([np.cos(line / 4), np.sin(line / 4)])
    excluded = [range(max(0, i - 2), 6) for i in range(6)]
    truth = [[j for j in range(6) if abs(line[i] - line[j]) < 0.5] for i in range(6)]
    result = evaluate(walk, walk, truth, RankingRules(excluded={(0, 1): excluded}))
    assert result.pairs[0].ranks.tolist() == [0, 0, 0, 0, 1, 1]
    assert result.unmatched == 4
    assert result.top(0, 1, 3).tolist() == [[-1, -1, -1]] * 3 + [[0, -1, -1], [1, 0, -1], [0, 1, 2]]
    # two of two and one of three candidates: chance is 1/2 and 1/3
    assert result.chance[1] == pytest.approx(100 * (1 / 2 + 1 / 3) / 2)


def test_chance_is_the_mean_over_every_order():
    groups = np.array([4, 4, 1, 1, 9, 9])
    truth, excluded = [[0, 1, 2], [3]], [[], [4, 5]]
    for grouped in (False, True):
        rules = RankingRules(groups={0: groups} if grouped else {}, excluded={(0, 1): excluded})
        result = evaluate(np.eye(6), np.eye(6)[:2], truth, rules, k=3)
        found = np.zeros(3)
        orders = list(permutations(range(6)))
        for order in orders:
            for true, gone in zip(truth, excluded, strict=True):
                ranked = slow_ranking(-np.argsort(order), groups if grouped else None, gone)
                found += [bool(set(true) & set(ranked[:rank])) for rank in (1, 2, 3)]
        assert list(result.chance.values()) == pytest.approx(100 * found / len(orders) / 2)


def test_filled_up_rankings_match_nothing():
    assert recall_at(np.array([[0], [-1]]), [[2], [1]], 1) == 0


def test_rules_that_do_not_fit_are_refused():
    database, queries, truth = np.eye(3), np.eye(3), [[0], [1], [2]]
    with pytest.raises(ValueError, match="groups of shape"):
        evaluate(database, queries, truth, RankingRules(groups={0: np.zeros(2)}))
    with pytest.raises(ValueError, match="query 1 excludes item 3"):
        evaluate(database, queries, truth, RankingRules(excluded={(0, 1): [[], [3], []]}))
    with pytest.raises(ValueError, match="exclusions of 1 queries"):
        evaluate(database, queries, truth, RankingRules(excluded={(0, 1): [[0]]}))


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("rules", [None, RankingRules(groups={0: np.arange(40) // 3}, excluded={(0, 1): [[5]] * 31})])
def test_small_blocks_of_queries_and_database_change_nothing(monkeypatch, metric, rules):
    random = np.random.default_rng(2)
    database, queries = random.integers(-3, 3, (40, 5)), random.integers(-3, 3, (31, 5))
    truth = [random.choice(40, random.integers(0, 9)).tolist() for _ in queries]
    whole = evaluate(database, queries, truth, rules, metric=metric)
    ranked = whole.top(0, 1, 9)
    monkeypatch.setattr(ranking, "_BLOCK", 17)
    monkeypatch.setattr(ranking, "_HELD", 90)
    blocks = evaluate(database, queries, truth, rules, metric=metric)
    assert not blocks.space.prepared_database(0).held
    assert whole.pairs[0].ranks.tolist() == blocks.pairs[0].ranks.tolist()
    assert ranked.tolist() == blocks.top(0, 1, 9).tolist()
    assert whole.top1_similarity == pytest.approx(blocks.top1_similarity, rel=1e-12)


def test_small_blocks_find_the_queries_of_every_run(monkeypatch):
    random = np.random.default_rng(4)
    runs = [random.standard_normal((n, 5)) for n in (9, 0, 14, 11)]
    sets = [{i: {m: [i % 9] for m in (0, 2, 3) if m != n} for i in range(len(run))} for n, run in enumerate(runs)]
    whole = evaluate_runs(runs, runs, sets)
    monkeypatch.setattr(ranking, "_BLOCK", 17)
    monkeypatch.setattr(ranking, "_HELD", 40)
    blocks = evaluate_runs(runs, runs, sets)
    assert [pair.ranks.tolist() for pair in whole.pairs] == [pair.ranks.tolist() for pair in blocks.pairs]


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_wide_embeddings_are_never_prepared_whole(monkeypatch, metric):
    random = np.random.default_rng(3)
    database, queries = (random.standard_normal((n, 2048), dtype=np.float32) for n in (300, 200))
    truth = [[i] for i in range(200)]
    monkeypatch.setattr(ranking, "_BLOCK", 2**14)
    monkeypatch.setattr(ranking, "_HELD", 2**16)
    tracemalloc.start()
    result = evaluate(database, queries, truth, None, metric=metric)
    result.top(0, 1, 5)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6 * 8 * 2**16 < database.size * 8  # the bound of the module, far below the database in float64


def slow_f1(similarity, metres, revisit, radii):
    best = (0.0, 0.001)
    for step in range(1, 1001):
        threshold = step / 1000
        tp = fp = fn = 0
        for s, d, r in zip(similarity, metres, revisit, strict=True):
            if 1 - s < threshold:
                tp += d <= radii[0]
                fp += d > radii[1]
            else:
                fn += bool(r)
        f1 = 2 * tp / (2 * tp + fp + fn) if tp else 0.0
        if f1 > best[0]:
            best = (f1, threshold)
    return best


def test_largest_f1_equals_the_slow_sweep():
    # drawn: right at 0.95, ignored at 0.9, wrong at 0.6, right at 0.4 (refused answers of revisits are missed)
    similarity, metres = np.array([0.95, 0.9, 0.6, 0.4]), np.array([1.0, 10.0, 50.0, 3.0])
    revisit = np.array([True, True, False, True])
    assert largest_f1(similarity, metres, revisit, (3.0, 20.0)) == pytest.approx((0.8, 0.601))
    random = np.random.default_rng(0)
    for count in (1, 12, 40):
        case = random.uniform(-0.2, 1, count), random.uniform(0, 40, count), random.random(count) < 0.5
        assert largest_f1(*case, (3.0, 20.0)) == pytest.approx(slow_f1(*case, (3.0, 20.0)))
    nothing = largest_f1(np.array([0.9]), np.array([30.0]), np.array([True]), (3.0, 20.0))
    assert nothing[0] == 0


def place(side, index, northing, images=()):
    return PlaceRecord(f"{side}{index}", side, None, images, northing, 0.0)


def image_set(rules, images=()):
    """Ten places 5 m apart, asked for at the same spots; the last three queries lie 500 m off."""
    database = [place("database", i, 5.0 * i, images) for i in range(10)]
    queries = [place("queries", i, 5.0 * i if i < 7 else 500.0 + i, images) for i in range(10)]
    near = [[j for j in range(10) if abs(queries[i].northing - 5.0 * j) <= 3] for i in range(10)]
    names = ["database", "queries"]
    return EvaluationSet("toy", names, [database, []], [[], queries], sets_of(near), 3.0, rules)


def result_of(town, seed=0):
    random = np.random.default_rng(seed)
    turn = np.arange(10) / 10 * 3 + random.normal(0, 0.2, 10)
    queries = np.column_stack([np.cos(turn), np.sin(turn)])
    turn = np.arange(10) / 10 * 3
    database = np.column_stack([np.cos(turn), np.sin(turn)])
    return evaluate_runs([database, []], [[], queries], town.query_sets, runs=town.runs, rules=town.rules)


def test_f1_of_a_result_follows_its_rankings():
    rules = RankingRules(excluded={(0, 1): [range(10)] + [[i % 4] for i in range(1, 10)]}, f1_radii=(3.0, 20.0))
    town = image_set(rules)
    result = result_of(town)
    result.space.queries[1][0] = result.space.database[0][9]  # a tempting wrong answer, were it allowed
    result = with_f1(result, town)
    first = result.top(0, 1, 1)[1:, 0]
    assert result.top(0, 1, 1)[0, 0] == -1  # nothing may answer query 0: it is in no count
    similarity = result.space.dot(0, 1, np.arange(1, 10), first)
    metres = [abs(town.queries[1][i].northing - 5.0 * item) for i, item in enumerate(first, start=1)]
    revisit = [bool(set(town.query_sets[1][i][0]) - {i % 4}) for i in range(1, 10)]
    assert result.extra == {"F1max": pytest.approx(slow_f1(similarity, metres, revisit, (3.0, 20.0))[0])}
    assert 0 < result.extra["F1max"] < 1
    assert result.to_dict()["extra"] == result.extra
    plain = image_set(RankingRules())
    assert with_f1(result_of(plain), plain).extra == {}


def test_reports_state_the_rules_and_cope_with_queries_that_are_never_right(tmp_path):
    from PIL import Image

    picture = tmp_path / "place.png"
    Image.new("RGB", (40, 30), (90, 120, 30)).save(picture)
    rules = RankingRules(
        unmatched="miss",
        groups={0: np.array([0] * 8 + [1, 2])},
        excluded={(0, 1): [[9]] * 10},
        f1_radii=(3.0, 20.0),
    )
    town = image_set(rules, (picture,))
    entries = [ReportEntry(f"model {i}", with_f1(result_of(town, i), town), {"parameters": "1"}) for i in (0, 1)]
    text = write_report(tmp_path / "report", kind_of(town), entries, town).read_text(encoding="utf-8")
    assert "3 queries without a match are counted as misses." in text
    assert "Of every panorama only the best-ranked image counts." in text
    assert "What must not be retrieved for a query" in text
    assert "correct within 3 m, wrong beyond 20 m" in text
    assert "no correct result at any rank" in text
    assert str(NEVER) not in text
    heads = [cell.split("<")[0] for cell in text.split("<th>")[1:]]
    assert heads == ["model", "R@1", "R@5", "R@10", "R@1 %", "F1max", "model", "parameters"]
    assert f"{entries[0].result.extra['F1max']:.3f}</td>" in text
    examples = choose_queries([entries[0].result], town, 10, seed=0)
    assert len(examples) == 10  # misses are questions too
    assert all(len(retrieved(entries[0].result, town, example)) == 2 for example in examples)
    assert example_retrievals(entries[0].result, town).ndim == 3
    plain = image_set(RankingRules())
    path = write_report(tmp_path / "plain", kind_of(plain), [ReportEntry("m", result_of(plain))], plain)
    text = path.read_text(encoding="utf-8")
    assert "3 queries without a match are left out." in text
