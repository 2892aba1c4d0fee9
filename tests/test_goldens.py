"""The recorded numbers in tests/data: complete, small, without pickle, and made by their script as they are."""

import zipfile

import pytest
import torch

from tests.data.make_subset import CUTS
from tests.goldens import SUBSET, load_golden, load_subset, write_subset

NAMES = [*CUTS, "d_teacher_minklocmmcat"]
SMALL = [name for name in CUTS if (SUBSET / f"{name}.npz").stat().st_size < 100_000]


def test_every_file_is_there_and_all_are_small():
    files = list(SUBSET.iterdir())
    assert sorted(path.name for path in files) == sorted([*(f"{name}.npz" for name in NAMES), "state_dict_keys.json"])
    assert sum(path.stat().st_size for path in files) < 8_000_000


@pytest.mark.parametrize("name", NAMES)
def test_files_hold_numbers_and_one_tree(name):
    with zipfile.ZipFile(SUBSET / f"{name}.npz") as archive:
        members = set(archive.namelist())
    kinds = {"float16.high", "float16.low", "float32", "float64", "int64", "int32", "int16", "uint8", "bool"}
    assert members <= {"tree.json", *(f"{kind}.npy" for kind in kinds)}
    assert "tree.json" in members


@pytest.mark.parametrize("name", SMALL)
def test_cutting_what_is_cut_gives_the_same_bytes(name, tmp_path):
    write_subset(tmp_path / "again.npz", CUTS[name](load_subset(SUBSET / name)))
    assert (tmp_path / "again.npz").read_bytes() == (SUBSET / f"{name}.npz").read_bytes()


def test_everything_a_tree_can_hold_comes_back(tmp_path):
    half = torch.tensor([[1.5, -2.25], [6e-8, float("inf")]], dtype=torch.float16)
    content = {
        "half": half,
        "numbers": {3: torch.tensor(7), "x": (1, 0.1, None, True, "a")},
        "none": torch.empty(0, 4, dtype=torch.int32),
        "rows": [torch.arange(6.0).view(2, 3), float("inf")],
    }
    write_subset(tmp_path / "a.npz", content)
    back = load_subset(tmp_path / "a")
    assert torch.equal(back["half"], half)
    assert back["half"].dtype == torch.float16
    assert back["numbers"][3].item() == 7
    assert back["numbers"]["x"] == (1, 0.1, None, True, "a")
    assert back["none"].shape == (0, 4)
    assert torch.equal(back["rows"][0], content["rows"][0])
    assert back["rows"][1] == float("inf")


def test_a_missing_file_is_an_error_and_no_skip():
    with pytest.raises(FileNotFoundError, match=r"zz\.npz"):
        load_golden("zz.pt")
