"""Cloud files: every type comes back as it was written; whatever is damaged is refused by name."""

import sys
from types import ModuleType

import numpy as np
import pytest

from distilplace.common import open3d_loader
from distilplace.common.errors import UserError
from distilplace.datasets.io.clouds import read_cloud


@pytest.fixture
def points():
    return np.random.default_rng(3).uniform(-40, 40, (300, 3)).astype(np.float32)


def _open3d_file(path, points, ascii_text=False, compressed=False):
    open3d = open3d_loader.import_open3d()
    cloud = open3d.geometry.PointCloud(open3d.utility.Vector3dVector(points.astype(np.float64)))
    assert open3d.io.write_point_cloud(str(path), cloud, write_ascii=ascii_text, compressed=compressed)
    return path


@pytest.mark.parametrize("suffix", ["pcd", "ply"])
@pytest.mark.parametrize("ascii_text", [False, True])
def test_open3d_types_come_back(tmp_path, points, suffix, ascii_text):
    path = _open3d_file(tmp_path / f"a.{suffix}", points, ascii_text)
    found = read_cloud(path)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, points, atol=1e-4)  # text PLY keeps six digits


def test_compressed_pcd_comes_back(tmp_path, points):
    np.testing.assert_allclose(read_cloud(_open3d_file(tmp_path / "a.pcd", points, compressed=True)), points, atol=1e-6)


@pytest.mark.parametrize("suffix", ["pcd", "ply"])
@pytest.mark.parametrize("style", [{}, {"ascii_text": True}, {"compressed": True}])
def test_truncated_open3d_types_are_refused(tmp_path, points, suffix, style):
    """Open3D itself answers some of these with as many points as promised, the missing ones uninitialised."""
    path = _open3d_file(tmp_path / f"a.{suffix}", points, **style)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=rf"a\.{suffix} is truncated.*copy or write it again"):
        read_cloud(path)


@pytest.mark.parametrize("suffix", ["pcd", "ply"])
def test_headerless_open3d_types_are_refused(tmp_path, suffix):
    (tmp_path / f"a.{suffix}").write_bytes(b"\x00\x01garbage\n" * 30)
    with pytest.raises(UserError, match="no readable"):
        read_cloud(tmp_path / f"a.{suffix}")


def test_ply_with_more_properties_and_faces(tmp_path):
    header = (
        "ply\nformat ascii 1.0\ncomment made by hand\nelement vertex 2\nproperty float x\nproperty float y\n"
        "property float z\n"
        "property uchar red\nelement face 1\nproperty list uchar int vertex_indices\nend_header\n"
    )
    (tmp_path / "a.ply").write_text(header + "1 2 3 255\n4 5 6 0\n3 0 1 0\n")
    assert read_cloud(tmp_path / "a.ply").tolist() == [[1, 2, 3], [4, 5, 6]]


def test_bin_and_npy_come_back(tmp_path, points):
    points.astype("<f4").tofile(tmp_path / "a.bin")
    np.save(tmp_path / "a.npy", np.c_[points, np.ones(len(points))].astype(np.float64))
    for name in ("a.bin", "a.npy"):
        found = read_cloud(tmp_path / name, columns=3)
        assert found.dtype == np.float32
        assert found.flags.c_contiguous
        assert np.array_equal(found, points)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.bin", b"", "holds no point"),
        ("a.bin", np.full((7, 3), np.nan, dtype="<f4").tobytes(), "7 of 7 points are not finite"),
        ("a.bin", np.full((7, 3), 6e5, dtype="<f4").tobytes(), "subtract the pose"),
        ("a.npy", b"\x93NUMPY", "no whole .npy"),
        ("a.npy", b"", "no whole .npy"),
        ("a.las", b"1", "unknown type '.las'"),
    ],
)
def test_damaged_files_are_named(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=said) as caught:
        read_cloud(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)


@pytest.mark.parametrize("array", [np.zeros((4, 2)), np.zeros(9), np.array([["a", "b", "c"]]), np.zeros((0, 3))])
def test_npy_of_another_shape_is_refused(tmp_path, array):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(UserError, match=r"a\.npy"):
        read_cloud(tmp_path / "a.npy")


def test_npy_never_unpickles(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{"x": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match=r"no whole \.npy"):
        read_cloud(tmp_path / "a.npy")


def test_absent_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"absent\.bin does not exist"):
        read_cloud(tmp_path / "absent.bin")


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (ImportError("libX11.so.6: cannot open shared object file"), r"libX11.*apt install .*libx11-6"),
        (ModuleNotFoundError("No module named 'open3d'"), "pip install open3d"),
    ],
)
def test_missing_open3d_says_what_to_install(monkeypatch, raised, said):
    def refuse(name: str) -> ModuleType:
        raise raised

    monkeypatch.delitem(sys.modules, "open3d", raising=False)
    monkeypatch.setattr(open3d_loader.importlib, "import_module", refuse)
    with pytest.raises(UserError, match=said):
        open3d_loader.import_open3d()
