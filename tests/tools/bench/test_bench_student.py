"""``bench student``: what it measures, in a miniature run (20 s on an idle core), and mistakes."""

import json
from pathlib import Path

import pytest

from distilplace.models.checkpoints import save_weights
from distilplace.tools.bench.run import main
from distilplace.tools.bench.student import HEADER, Row, table
from distilplace.tools.bench.student_process import Timing
from tests.tools.export.conftest import card_of, small_network


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("student") / "best.safetensors"
    return save_weights(small_network(output_dim=16), path, card_of("resnet18", {"output_dim": 16}, 16))


@pytest.mark.slow
def test_every_kind_is_measured_and_printed(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "student.json"
    flags = ["--batches", "1,2", "--threads", "1", "--seconds", "0.1", "--sizes", "200", "--json", str(output)]
    assert main(["student", str(weights), *flags]) == 0, capsys.readouterr().err
    content = json.loads(output.read_text())
    printed = capsys.readouterr().out
    kinds = ["eager", "channels-last", "bf16", "ONNX float32", "ONNX INT8"]
    assert [(row["kind"], row["batch"]) for row in content["students"]] == [(k, b) for b in (1, 2) for k in kinds]
    for row in content["students"]:
        eager = next(other for other in content["students"] if other["batch"] == row["batch"])
        assert row["faster"] == pytest.approx(eager["timing"]["p50_ms"] / row["timing"]["p50_ms"])
        assert 0 < row["timing"]["p50_ms"] <= row["timing"]["p95_ms"]
        assert row["timing"]["rounds"] >= 5
    eager, *_, quantised = content["students"][:5]
    assert quantised["smaller"] > 3
    if eager["timing"]["peak_mib"] is not None:  # ONNX Runtime's process has no torch
        assert quantised["timing"]["peak_mib"] < eager["timing"]["peak_mib"] - 50
    assert [(row["places"], row["kind"]) for row in content["maps"]] == [(200, k) for k in ("exact", "ivfpq", "hnsw")]
    assert "ONNX INT8 against the network itself: same first answer" in printed
    assert "ratios against eager" in printed


def test_table_is_aligned() -> None:
    rows = [
        Row("eager", 1, Timing(5, 10.0, 12.0, 19.0, 400.2), 11.6, 1, 1, 1),
        Row("ONNX INT8", 32, Timing(5, 64.0, 70.0, 100.0, None), 2.9, 3.5, 4.25, 4.0),
    ]
    head, first, second = table(rows).splitlines()
    assert len(head) == len(first) == len(second)
    assert head.split() == " ".join(HEADER).split()
    assert " ".join(second.split()) == "ONNX INT8 32 64.0 70.0 100.0 500.0 - 2.9 3.50x 4.25x 4.00x"
    assert first.split()[5:7] == ["100.0", "400"]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--batches", "1,0"], "--batches 1,0: give whole numbers"),
        (["--sizes", "few"], "--sizes few: give whole numbers"),
        (["--threads", "0"], "at least 1"),
        ([], "weights file best.safetensors does not exist"),
    ],
)
def test_mistakes_are_one_line(flags: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["student", "best.safetensors", *flags]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
