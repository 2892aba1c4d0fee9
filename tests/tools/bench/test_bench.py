"""The benchmark runs, its two sides agree, and what it reports is what it measured."""

import json
from pathlib import Path

import pytest
import torch

from distilplace.common.errors import UserError
from distilplace.models.sparse import SparseTensor, kernel_offsets
from distilplace.tools.bench.inputs import Case
from distilplace.tools.bench.reference import search_pairs
from distilplace.tools.bench.run import difference, kept_bytes, main, measure, table


def test_quick_run_prints_an_aligned_table_and_writes_the_same_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "bench" / "bench.json"
    assert main(["--quick", "--output", str(output)]) == 0
    content = json.loads(output.read_text())
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith(content["device"])
    assert f"{content['threads']} thread(s)" in printed[0]
    results, rows = content["results"], printed[2:-3]
    assert len(results) == len(rows) == 14
    assert printed[-2] == content["angles"]
    assert content["angles"].startswith("angle term, B=40 D=32: ")
    edge = printed[1].index("  reference")
    for result, row in zip(results, rows, strict=True):
        assert row.startswith(result["name"])
        assert row[edge + 2 :] == result["reference"]
        assert f"{result['ratio']:.3f}" in row
        assert min(result["ours_ms"], result["reference_ms"], result["ratio"]) > 0
        assert result["rounds"] >= 5
    saving = [result for result in results if result["ours_kept_bytes"] is not None]
    terms = ["distance", "geodesic", "angle"] * 2
    assert [result["name"].split()[0] for result in saving] == ["ours_rkdg", *terms, "MinkLoc"]
    assert all(result["ours_kept_bytes"] < result["reference_kept_bytes"] for result in saving)
    assert [path.name for path in output.parent.iterdir()] == ["bench.json"]


def test_sides_that_disagree_are_not_timed() -> None:
    case = Case("sum", "another sum", lambda: [torch.ones(2)], lambda: [torch.tensor([1.0, 1.1])])
    with pytest.raises(UserError, match="sum: ours and the reference differ by 9"):
        measure(case, 0)
    assert difference([torch.tensor([float("nan")])], [torch.ones(1)]) == float("inf")
    assert difference([torch.ones(2)], [torch.ones(1)]) == float("inf")
    assert difference([torch.tensor([True])], [torch.tensor([True])]) == 0


def test_kept_bytes_count_a_storage_once() -> None:
    x = torch.ones(1000, requires_grad=True)
    assert kept_bytes(lambda: [x * x]) == 4000
    assert kept_bytes(lambda: [(x * x).exp()]) == 8000
    assert kept_bytes(lambda: [x + 1]) == 0
    rows = torch.arange(1000)
    assert kept_bytes(lambda: [x[rows]]) == 0


def test_without_a_graph_the_table_has_no_bytes() -> None:
    found = measure(Case("nothing", "the same", lambda: [torch.ones(1)], lambda: [torch.ones(1)]), 0)
    assert found.rounds == 5
    assert table([found]).splitlines()[1].split()[4:6] == ["-", "-"]


def test_searched_pairs_are_those_of_a_comparison_of_all() -> None:
    draw = torch.Generator().manual_seed(1)
    coords = torch.randint(-3, 4, (120, 4), generator=draw, dtype=torch.int32)
    coords[:, 0] = coords[:, 0].abs() % 2
    manager = SparseTensor(torch.ones(120, 1), coords).manager
    fine, coarse = manager.coordinates(0), manager.coordinates(1)
    for source, target, size in ((fine, fine, 3), (fine, coarse, 2)):
        offsets = kernel_offsets(size)
        for offset, (rows, where) in zip(offsets, search_pairs(source, target, offsets), strict=True):
            moved = target + torch.cat([torch.zeros(1), offset]).int()
            equal = (source[:, None] == moved[None]).all(2).nonzero().tolist()
            assert sorted(zip(rows.tolist(), where.tolist(), strict=True)) == [tuple(pair) for pair in equal]
