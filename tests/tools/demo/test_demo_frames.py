"""The contact sheet: as many frames as asked, from all traversals alike, the same for the same seed."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from distilplace.common.errors import UserError
from distilplace.tools.demo.frames import contact_sheet, main, pick_frames


@pytest.fixture
def world(tmp_path: Path) -> SimpleNamespace:
    for run in range(3):
        folder = tmp_path / "images" / f"run{run}"
        folder.mkdir(parents=True)
        for stamp in range(5):
            pixels = np.full((12, 16, 3), 20 + 60 * run + 10 * stamp, np.uint8)
            Image.fromarray(pixels).save(folder / f"{stamp}.png")
    (tmp_path / "images" / "lidar2image_ndx.pickle").write_bytes(b"")
    return SimpleNamespace(dataset_folder=tmp_path)


def test_frames_are_different_shared_out_and_repeatable(world: SimpleNamespace) -> None:
    frames = pick_frames(world, 7, 1)
    assert len(set(frames)) == 7
    counts = [sum(frame.parent.name == f"run{run}" for frame in frames) for run in range(3)]
    assert sorted(counts) == [2, 2, 3]
    assert pick_frames(world, 7, 1) == frames
    assert pick_frames(world, 7, 2) != frames
    assert len(pick_frames(world, 15, 1)) == 15
    with pytest.raises(UserError, match="only 15 frames"):
        pick_frames(world, 16, 1)


def test_sheet_lays_frames_out_row_by_row(world: SimpleNamespace, tmp_path: Path) -> None:
    frames = pick_frames(world, 6, 1)
    contact_sheet(frames, tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (16 * 4, 12 * 2)
        pixels = np.asarray(sheet.convert("RGB"))
    for number, frame in enumerate(frames):
        row, column = divmod(number, 4)
        shown = pixels[row * 12 : row * 12 + 12, column * 16 : column * 16 + 16]
        assert np.array_equal(shown, np.asarray(Image.open(frame)))
    assert (pixels[12:, 32:] == 0).all()


def test_bad_count_is_one_line_and_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--count", "0", "--output", str(tmp_path / "sheet.png"), "--dataset_folder", str(tmp_path)]) == 2
    assert capsys.readouterr().err == "error: --count 0: must be at least 1\n"
    assert list(tmp_path.iterdir()) == []
