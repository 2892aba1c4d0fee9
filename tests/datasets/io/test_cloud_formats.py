"""PCD and PLY in every form that writers give them, against NumPy; whatever is damaged is one line."""

import tracemalloc

import numpy as np
import pytest

from distilplace.common.errors import UserError
from distilplace.datasets.io.clouds import read_cloud

N = 40


@pytest.fixture
def xyz():
    return np.random.default_rng(5).uniform(-40, 40, (N, 3))


def pcd_header(fields, sizes, kinds, counts, kind, points=N, width=None):
    lines = ["# .PCD v0.7", "VERSION 0.7", f"FIELDS {fields}", f"SIZE {sizes}", f"TYPE {kinds}"]
    lines += [f"COUNT {counts}"] if counts else []
    lines += [f"WIDTH {points if width is None else width}", "HEIGHT 1", "VIEWPOINT 0 0 0 1 0 0 0"]
    return ("\n".join([*lines, f"POINTS {points}", f"DATA {kind}"]) + "\n").encode()


def record(columns):
    """A structured array of (name, type, values) columns, as a binary body holds it."""
    row = np.zeros(N, dtype=[(name, kind, np.shape(values)[1:]) for name, kind, values in columns])
    for name, _, values in columns:
        row[name] = values
    return row


def axes(xyz, kind):
    return [(name, kind, xyz[:, index]) for index, name in enumerate("xyz")]


def written(path, content):
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("kind", ["<f4", "<f8", "<i2", "<i4"])
def test_pcd_of_every_number_type(tmp_path, xyz, kind):
    """Float64 coordinates, which Open3D reads as zeros, are the case that people met."""
    body, size, letter = record(axes(xyz, kind)).tobytes(), int(kind[-1]), kind[1].upper()
    path = written(tmp_path / "a.pcd", pcd_header("x y z", f"{size} " * 3, f"{letter} " * 3, "1 1 1", "binary") + body)
    np.testing.assert_allclose(read_cloud(path), xyz.astype(kind), rtol=1e-6)


def test_pcd_fields_in_any_order_with_padding_and_counts(tmp_path, xyz):
    columns = [("n", "<f4", np.ones((N, 5))), ("z", "<f8", xyz[:, 2]), ("_", "u1", np.full((N, 3), 255))]
    columns += [("i", "<u2", np.arange(N)), ("y", "<f4", xyz[:, 1]), ("x", "<f8", xyz[:, 0])]
    head = pcd_header("normal Z _ intensity Y X", "4 8 1 2 4 8", "F F U U F F", "5 1 3 1 1 1", "binary")
    path = written(tmp_path / "a.pcd", head + record(columns).tobytes())
    np.testing.assert_allclose(read_cloud(path), xyz, rtol=1e-6)
    rows = [f"1 1 1 1 1 {z!r}\t255 255 255  7 {y!r} {x!r} " for x, y, z in xyz.tolist()]
    text = written(tmp_path / "b.pcd", head.replace(b"binary", b"ascii") + "\r\n".join(rows).encode())
    np.testing.assert_allclose(read_cloud(text), xyz, rtol=1e-6)


def test_compressed_pcd_of_mixed_types(tmp_path, xyz):
    lzf = pytest.importorskip("lzf")
    blocks = [np.ones((N, 2), "<f4"), xyz[:, 2].astype("<f8"), xyz[:, 0].astype("<f4"), xyz[:, 1].astype("<f8")]
    plain = b"".join(block.tobytes() for block in blocks)
    plain += bytes(4 * N)  # a field that compresses
    packed = lzf.compress(plain)
    sizes = len(packed).to_bytes(4, "little") + len(plain).to_bytes(4, "little")
    head = pcd_header("a z x y _", "4 8 4 8 4", "F F F F U", "2 1 1 1 1", "binary_compressed")
    np.testing.assert_allclose(read_cloud(written(tmp_path / "a.pcd", head + sizes + packed)), xyz, rtol=1e-6)
    for damaged, said in [
        (head + sizes + packed[:-3], "is truncated"),
        (head + sizes[:5], "is truncated"),
        (head + sizes[:4] + (len(plain) + 1).to_bytes(4, "little") + packed, "is damaged"),
        (head + sizes + b"\xff" * len(packed), "does not decompress"),
        (head.replace(b"POINTS 40", b"POINTS 39").replace(b"WIDTH 40", b"WIDTH 39") + sizes + packed, "is damaged"),
    ]:
        with pytest.raises(UserError, match=said):
            read_cloud(written(tmp_path / "a.pcd", damaged))


def test_old_pcd_without_counts_and_points(tmp_path, xyz):
    head = pcd_header("x y z", "4 4 4", "F F F", "", "binary").replace(b"POINTS 40\n", b"")
    path = written(tmp_path / "a.pcd", head + xyz.astype("<f4").tobytes())
    assert np.array_equal(read_cloud(path), xyz.astype("f4"))


GOOD = pcd_header("x y z", "4 4 4", "F F F", "1 1 1", "ascii", points=3)
BODY = b"1 2 3\n4 5 6\n7 8 9\n"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (GOOD + b"1 2 3\n4 five 6\n7 8 9\n", r"no table of numbers \(point 2 holds 'five', which is no number\)"),
        (GOOD + b"hello\nmy\nfriend\n", r"is truncated: its last line has 1 of 3"),
        (GOOD + "1 2 3\n4 \u0665 6\n7 8 9\n".encode(), "no table of numbers"),
        (GOOD + b"1 2 3\n4 1_000 6\n7 8 9\n", "no table of numbers"),
        (
            GOOD + b"1 2 3\n4 5\n7 8 9\n",
            r"no table of numbers \(point 2 has 2 values, the header names 3 fields\)",
        ),
        (GOOD.decode().encode("utf-16"), "is UTF-16 text"),
        (GOOD + b"1 2 3 4\n4 5 6 4\n7 8 9 4\n", "4 values a line, its header names 3"),
        (GOOD + b"1 2 3\n4 5 6\n", "is truncated: its header declares 3 points, 2 lines"),
        (GOOD + BODY + b"1 1 1\n", "holds more than its header declares"),
        (GOOD + b"1 2 3\n4 nan 6\n7 8 9\n", "1 of 3 points are not finite"),
        (GOOD.replace(b"x y z", b"u v w") + BODY, r"no field x \(fields: u v w\)"),
        (GOOD.replace(b"x y z", b"x X z") + BODY, "more than one field x"),
        (GOOD.replace(b"FIELDS x y z", b"FIELDS x y z i") + BODY, "FIELDS, SIZE, TYPE, COUNT hold 4, 3, 3, 3"),
        (GOOD.replace(b"SIZE 4 4 4", b"SIZE 4 4 3") + BODY, "field z of type F3"),
        (GOOD.replace(b"COUNT 1 1 1", b"COUNT 1 1 2") + BODY.replace(b"\n", b" 1\n"), "more than one value in x, y"),
        (GOOD.replace(b"WIDTH 3", b"WIDTH 4") + BODY, "declares 3 points, but WIDTH 4 times HEIGHT 1"),
        (GOOD.replace(b"DATA ascii", b"DATA zip") + BODY, "a body of kind 'zip'"),
        (GOOD.replace(b"POINTS 3", b"POINTS three") + BODY, "no readable .pcd header: POINTS three"),
        (GOOD.replace(b"POINTS 3", b"POINTS -3") + BODY, "no readable .pcd header"),
        (GOOD.replace(b"POINTS 3", b"POINTS 3\nPOINTS 3") + BODY, "names POINTS twice"),
        (b"", "no readable .pcd header"),
        (GOOD[:60], "no readable .pcd header"),
        (GOOD.replace(b"ascii", b"binary") + bytes(range(36)) * 3, "holds more than its header declares"),
    ],
)
def test_wrong_pcds_are_one_line(tmp_path, content, said):
    with pytest.raises(UserError, match=said) as caught:
        read_cloud(written(tmp_path / "a.pcd", content))
    assert f"cloud file {tmp_path / 'a.pcd'}" in str(caught.value)


def test_a_byte_order_mark_before_the_header_is_passed_over(tmp_path, xyz):
    three = ["float x", "float y", "float z"]
    plain = ply("ascii", three, 3) + BODY
    for suffix, content in ((".pcd", GOOD + BODY), (".ply", plain)):
        expected = read_cloud(written(tmp_path / f"a{suffix}", content))
        assert np.array_equal(read_cloud(written(tmp_path / f"b{suffix}", b"\xef\xbb\xbf" + content)), expected)


def ply(kind, properties, count=N, before="", after=""):
    names = "".join(f"property {prop}\n" for prop in properties)
    return f"ply\nformat {kind} 1.0\ncomment x\n{before}element vertex {count}\n{names}{after}end_header\n".encode()


@pytest.mark.parametrize(("kind", "order"), [("binary_little_endian", "<"), ("binary_big_endian", ">")])
def test_binary_ply_of_any_order_and_type(tmp_path, xyz, kind, order):
    columns = [("r", "u1", np.arange(N)), ("z", f"{order}f8", xyz[:, 2]), ("x", f"{order}f4", xyz[:, 0])]
    columns += [("q", f"{order}i2", np.arange(N)), ("y", f"{order}f8", xyz[:, 1])]
    before = "element camera 2\nproperty double f\n"
    after = "element face 1\nproperty list uchar int vertex_indices\n"
    head = ply(kind, ["uchar r", "double Z", "float x", "short q", "float64 y"], before=before, after=after)
    body = bytes(16) + record(columns).tobytes() + b"\3" + bytes(12)
    np.testing.assert_allclose(read_cloud(written(tmp_path / "a.ply", head + body)), xyz, rtol=1e-6)
    with pytest.raises(UserError, match="is truncated"):
        read_cloud(written(tmp_path / "a.ply", head + body[:-40]))


def test_wrong_plys_are_one_line(tmp_path):
    three = ["float x", "float y", "float z"]
    body = b"1 2 3\n4 5 6\n"
    for content, said in [
        (ply("ascii", three, 2) + b"1 2 3\n4 five 6\n", "no table of numbers"),
        (ply("ascii", three, 2) + body + b"7 8 9\n", "holds more than its header declares"),
        (ply("ascii", three, 3) + body, "is truncated"),
        (ply("ascii", ["float x", "float y"], 2) + body, "no field z"),
        (ply("ascii", [*three, "list uchar int n"], 2) + body, "holds lists in its element vertex"),
        (ply("ascii", ["half x", *three[1:]], 2) + body, "no readable .ply header: property half x"),
        (ply("ascii", three, -2) + body, "no readable .ply header: element vertex -2"),
        (ply("zip", three, 2) + body, "is of format 'zip'"),
        (ply("ascii", three, 2).replace(b"vertex", b"corner") + body, "one element vertex is needed"),
        (ply("ascii", three, 2)[4:] + body, "no readable .ply header"),
    ]:
        with pytest.raises(UserError, match=said):
            read_cloud(written(tmp_path / "a.ply", content))


@pytest.mark.parametrize("count", [10**12, 10**17])
def test_a_huge_declared_count_is_refused_without_the_memory(tmp_path, count):
    whole = b"binary_little_endian"
    npy = b"\x93NUMPY\x01\x00\x76\x00" + f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({count}, 3), }}".encode()
    files = {
        "a.pcd": pcd_header("x y z", "4 4 4", "F F F", "1 1 1", "binary", points=count) + bytes(120),
        "b.pcd": pcd_header("x y z", "4 4 4", "F F F", "1 1 1", "ascii", points=count) + BODY,
        "c.pcd": pcd_header("x y z", "4 4 4", "F F F", "1 1 1", "binary_compressed", points=count) + bytes(120),
        "a.ply": ply(whole.decode(), ["float x", "float y", "float z"], count=count) + bytes(120),
        "b.ply": ply("ascii", ["float x", "float y", "float z"], count=count) + BODY,
        "a.npy": npy.ljust(127) + b"\n" + bytes(120),
    }
    tracemalloc.start()
    for name, content in files.items():
        with pytest.raises(UserError, match=rf"{name} (is|has|holds|declares)"):
            read_cloud(written(tmp_path / name, content))
    assert tracemalloc.get_traced_memory()[1] < 10**7
    tracemalloc.stop()
