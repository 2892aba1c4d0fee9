"""``distilplace compare``: seeds in groups, differences on the same queries, other test sets refused."""

import csv
import json
import re
from dataclasses import replace

import numpy as np
import pytest
import yaml

from distilplace import cli
from distilplace.engine.options import TrainOptions
from distilplace.evaluation.retrieval.bootstrap import paired_interval
from distilplace.evaluation.retrieval.predictions import predictions_of
from distilplace.evaluation.retrieval.predictions_file import write_parquet
from distilplace.tools.compare import run as command
from distilplace.tools.compare.differences import difference
from distilplace.tools.compare.groups import Group, grouped
from distilplace.tools.compare.reading import read_run
from tests.evaluation.report.town import Page, result_of, world

pytestmark = pytest.mark.filterwarnings("ignore:a database of .* is smaller than k")


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    return world(tmp_path_factory.mktemp("pictures"), images=False)


def finished(folder, town, noise, seed, **options):
    """A run folder as train.py leaves it: options, test results, predictions."""
    folder.mkdir(parents=True)
    result = result_of(town, noise, seed)
    chosen = TrainOptions(seed=seed, exp_name=folder.name, logdir=str(folder.parent), **options).model_dump()
    (folder / "config.yaml").write_text(yaml.safe_dump(chosen))
    numbers = {**result.to_dict(), "precision_recall": {"auc": noise, "recall_at_95_precision": 10.0 * seed}}
    (folder / "test.json").write_text(json.dumps({"student": numbers, "teacher": {}}))
    write_parquet(
        folder / "predictions.parquet",
        {"student": predictions_of(result, town), "teacher": predictions_of(result, town)},
    )
    return result


@pytest.fixture(scope="module")
def runs(town, tmp_path_factory):
    """Two seeds of one configuration and one run of another, and their results."""
    logs = tmp_path_factory.mktemp("logs")
    results = {
        "alone-seed1": finished(logs / "alone-seed1", town, 0.6, 1, distil_method="nokd"),
        "alone-seed2": finished(logs / "alone-seed2", town, 0.6, 2, distil_method="nokd"),
        "distilled": finished(logs / "distilled", town, 0.2, 1),
    }
    return logs, results


def first_correct(town, result):
    """Search -> is its first result correct?, of all evaluated ones, the slow way."""
    found = {}
    for pair in result.pairs:
        for query, rank in enumerate(pair.ranks):
            if rank > 0:
                found[pair.query_run, pair.database_run, query] = bool(rank == 1)
    return found


def test_seeds_of_one_configuration_are_mean_and_spread(runs):
    logs, results = runs
    first, second = grouped([read_run(logs / name) for name in results])
    assert (first.name, first.seeds, second.name) == ("alone (2 seeds)", [1, 2], "distilled")
    values = [results[name].recall[1] for name in ("alone-seed1", "alone-seed2")]
    assert first.columns()["R@1"] == f"{np.mean(values):.1f} ± {np.std(values, ddof=1):.1f}"
    assert second.columns()["R@1"] == f"{results['distilled'].recall[1]:.1f}"
    assert (first.columns()["R@95P"], first.columns()["AUC"]) == ("15.0 ± 7.1", "0.600 ± 0.000")
    assert first.intervals() == {}
    assert second.intervals()["R@1"] == pytest.approx(results["distilled"].intervals()["R@1"])
    assert first.curve()[5] == pytest.approx(np.mean([results[name].recall[5] for name in results if "seed" in name]))


def test_differences_count_every_changed_search(runs, town):
    logs, results = runs
    one, other = grouped([read_run(logs / name) for name in ("alone-seed1", "distilled")])
    found = difference(one, other)
    before, after = first_correct(town, results["alone-seed1"]), first_correct(town, results["distilled"])
    assert found.better == sum(after[key] and not before[key] for key in before)
    assert found.worse == sum(before[key] and not after[key] for key in before)
    assert found.better + found.worse + found.same == len(before)
    assert found.points == pytest.approx(results["distilled"].recall[1] - results["alone-seed1"].recall[1])
    assert found.interval[0] < found.points < found.interval[1]


def test_the_interval_of_a_difference_holds_it_in_95_of_100_cases():
    random, held = np.random.default_rng(1), []
    for _ in range(60):  # places of two searches that agree: half as much evidence as there are searches
        places = np.repeat(np.arange(40), 2)
        gain = np.repeat(random.choice([-1.0, 0.0, 1.0], 40, p=[0.15, 0.55, 0.3]), 2)
        _, (low, high) = paired_interval(gain, places, np.zeros(80, dtype=np.int64), 40)
        held.append(low <= 0.15 <= high)
    assert 53 <= sum(held) <= 60


def test_a_difference_is_drawn_over_the_places_of_the_queries(runs):
    logs, _ = runs
    alone, distilled = (Group(name, [read_run(logs / name)]) for name in ("alone-seed1", "distilled"))
    own = alone.runs[0].first
    assert own["place"].nunique() < own["query_key"].nunique()  # several drives pass a place
    before = difference(alone, distilled).interval
    own["place"] = np.arange(len(own)) // 20
    asked = own["evaluated"].to_numpy()
    gain, places = (distilled.correct() - alone.correct())[asked], own["place"].to_numpy()
    pairs = np.unique(own["query_run"] + own["database_run"], return_inverse=True)[1]
    found, bounds = paired_interval(gain, places[asked], pairs[asked], places.max() + 1)
    told = difference(alone, distilled)
    assert (told.points, *told.interval) == pytest.approx((100 * found, 100 * bounds[0], 100 * bounds[1]))
    assert told.interval != before


def test_the_page_and_the_tables_tell_it(runs, town, tmp_path, capsys):
    logs, results = runs
    assert cli.main(["compare", *(str(logs / name) for name in results), "--report", str(tmp_path / "r"), "--csv"]) == 0
    page = Page((tmp_path / "r" / "index.html").read_text(encoding="utf-8"))
    text = " ".join(page.text.split())
    mean = np.mean([results[name].recall[1] for name in ("alone-seed1", "alone-seed2")])
    assert f"{results['distilled'].recall[1] - mean:+.2f}" in text
    assert "Differences to alone (2 seeds)" in text
    assert re.search(r"distil_method\s*nokd\s*ours_rkdg", text)
    assert "Of several seeds the first run is drawn." in text
    assert "a paired bootstrap over places" in text
    assert not re.search(r"exp_name\s*alone", text)
    with (tmp_path / "r" / "comparison.csv").open(newline="") as stream:
        rows = {(row["configuration"], row["measure"]): row for row in csv.DictReader(stream)}
    assert float(rows["alone (2 seeds)", "R@1"]["mean"]) == pytest.approx(mean)
    assert rows["distilled", "R@1"]["standard_deviation"] == rows["alone (2 seeds)", "R@1"]["low_95"] == ""
    with (tmp_path / "r" / "changed.csv").open(newline="") as stream:
        changed = list(csv.DictReader(stream))
    found = [first_correct(town, result) for result in results.values()]
    assert len(changed) == sum(
        len({(a + b) / 2, float(c)}) > 1 for a, b, c in zip(*(f.values() for f in found), strict=True)
    )
    assert {row["alone (2 seeds)"] for row in changed} <= {"0 of 2", "1 of 2", "2 of 2"}


def test_other_test_sets_and_unfinished_runs_are_refused_in_one_line(runs, town, tmp_path, capsys):
    logs, _ = runs
    nearer = replace(
        town,
        query_sets=[
            {q: {m: v[:1] if isinstance(m, int) else v for m, v in e.items()} for q, e in run.items()}
            for run in town.query_sets
        ],
    )
    finished(tmp_path / "nearer", nearer, 0.2, 1)
    finished(tmp_path / "smaller", world(tmp_path, size=9, images=False), 0.2, 1)
    finished(tmp_path / "old", town, 0.2, 1)
    (tmp_path / "old" / "predictions.parquet").unlink()
    finished(tmp_path / "stopped", town, 0.2, 1)
    (tmp_path / "stopped" / "test.json").unlink()
    finished(tmp_path / "torn", town, 0.2, 1)
    (tmp_path / "torn" / "predictions.parquet").write_bytes(b"PAR1")
    first = str(logs / "distilled")
    for folder, words in {
        tmp_path / "nearer": "other true places",
        tmp_path / "smaller": "queries are in one of them alone",
        tmp_path / "old": "--resume auto",
        tmp_path / "stopped": "has not been tested",
        tmp_path / "torn": "is damaged",
        tmp_path / "absent": "it is no run folder",
        logs / "distilled": "named twice",
    }.items():
        assert command.main([first, str(folder), "--report", str(tmp_path / "r")]) == 2
        said = capsys.readouterr().err.strip()
        assert words in said
        assert said.count("\n") == 0
    assert not (tmp_path / "r").exists()
