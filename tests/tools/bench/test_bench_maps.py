"""``python -m tools.bench.maps`` on small maps: every index, against the exact search of the same run."""

import pytest

from distilplace.runtime.map.loaded import BEARABLE_MS
from distilplace.tools.bench import maps


def test_every_index_is_measured_against_the_exact_search(tmp_path):
    pytest.importorskip("faiss")
    exact, *others = rows = maps.measure(600, maps.usual_indexes(), tmp_path, queries=40)
    assert [(row.places, row.kind) for row in rows] == [(600, kind) for kind in ("exact", "ivfpq", "hnsw")]
    assert (exact.faster, exact.recall) == (1.0, 1.0)
    for row in others:
        assert row.faster == exact.p50_ms / row.p50_ms
        assert row.recall >= 0.8
        assert min(row.open_s, row.again_s) > 0
    assert list(tmp_path.iterdir()) == []


def test_the_command_prints_every_size_and_the_threshold(tmp_path, capsys):
    assert maps.main(["--sizes", "40,80", "--indexes", "exact", "--folder", str(tmp_path)]) == 0
    *table, last = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in table[-2:]] == [["40", "exact"], ["80", "exact"]]
    assert table[-1].split()[-2:] == ["1.0x", "1.000"]
    assert last.startswith("exact search: ")
    assert list(tmp_path.iterdir()) == []


def test_the_threshold_is_where_an_exact_search_becomes_too_slow():
    row = maps.Row(100_000, "exact", 1.0, 1.0, 1.0, 100.0, None, 5.0, 6.0, 0.1, 0.2, 1.0, 1.0)
    fast = row._replace(kind="ivfpq", p50_ms=0.5)
    small = row._replace(places=1000, p50_ms=9.0)
    assert BEARABLE_MS == 20
    assert "5.0 ms per 100,000 places of 256 numbers, so 20 ms at 400,000 (" in maps.threshold([small, row, fast])


@pytest.mark.parametrize("sizes", ["few", "0", "10,-1"])
def test_sizes_that_are_none_are_one_line(sizes, capsys):
    assert maps.main([f"--sizes={sizes}"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
