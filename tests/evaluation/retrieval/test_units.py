"""Reports name distances in the set's own unit, and show own images upright."""

import numpy as np
import pytest
from PIL import Image

from distilplace.datasets import create_dataset
from distilplace.evaluation.report.kinds import kind_of
from distilplace.evaluation.report.parts import ReportEntry
from distilplace.evaluation.report.writer import write_report
from distilplace.evaluation.retrieval.runs import evaluate_runs
from tests.miniature_images import numbered, write_images

pytestmark = pytest.mark.filterwarnings("ignore:a database of .* is smaller than k")


def report(folder, data):
    tests = data.evaluation_set()
    embeddings = [
        [np.eye(6)[[int(r.images[0].stem) for r in run]] for run in side] for side in (tests.database, tests.queries)
    ]
    result = evaluate_runs(*embeddings, tests.query_sets, runs=tests.runs)
    path = write_report(folder, kind_of(tests), [ReportEntry("network", result)], tests, notes=data.notes)
    return path, path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("tolerance", "reach", "first"),
    [(0, "is the exact frame.", "1. correct, exact frame"), (1, "lies within 1 frame.", "1. correct, exact frame")],
)
def test_frames_are_counted_in_words(tmp_path, tolerance, reach, first):
    write_images(tmp_path, numbered(range(6)), numbered(range(6)))
    _, text = report(tmp_path / "report", create_dataset("images", dataset_folder=tmp_path, frame_tolerance=tolerance))
    assert f"A retrieved item is correct when it {reach}" in text
    assert first in text
    assert "1 frame<" in text
    assert "0 frames" not in text
    assert "0.0 frame" not in text


def test_what_was_left_out_and_the_upright_picture_are_in_the_report(tmp_path):
    write_images(tmp_path, numbered(range(6)), numbered(range(6)))
    (tmp_path / "database" / "readme.md").write_text("x")
    for path in (tmp_path / "queries").iterdir():
        exif = Image.Exif()
        exif[0x0112] = 6
        with Image.open(path) as opened:
            opened.transpose(Image.Transpose.ROTATE_90).save(path, exif=exif)
    path, text = report(tmp_path / "report", create_dataset("images", dataset_folder=tmp_path, frame_tolerance=0))
    assert "database: 1 entry (1 .md such as readme.md) left out" in text
    for shown in (path.parent / "images").glob("*.jpg"):
        with Image.open(shown) as image:
            assert image.size == (32, 24)  # not 24 x 32, as the queries are stored
