"""Students in ONNX: embeddings, and files that are none of ours. No torch anywhere."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import distilplace
from distilplace.common.errors import UserError
from distilplace.runtime import Student
from distilplace.runtime.file_hash import HASH, STATED, stamped
from tests.runtime.students import SIZE, WIDTH, card, expected, write_student

FOREIGN = ("torch", "open3d", "timm", "faiss", "pymilvus", "sklearn", "scipy", "pandas")


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return write_student(tmp_path_factory.mktemp("student") / "student.onnx")


def pictures(count, size=SIZE):
    return np.random.default_rng(0).integers(0, 256, (count, *size, 3), dtype=np.uint8)


def test_arrays_images_and_paths_give_the_same(file, tmp_path):
    arrays = pictures(5)
    paths = []
    for index, array in enumerate(arrays):
        paths.append(tmp_path / f"{index}.png")
        Image.fromarray(array).save(paths[-1])
    student = Student(file, threads=1)
    wanted = np.stack([expected(array) for array in arrays])
    for given in (arrays, list(arrays), paths, [str(path) for path in paths], [Image.open(path) for path in paths]):
        found = student.embed(given, batch_size=2)
        assert found.dtype == np.float32
        assert found == pytest.approx(wanted, abs=1e-3)
    assert student.embed(paths[3]) == pytest.approx(wanted[3:4], abs=1e-3)
    assert student.embed([]).shape == (0, WIDTH)


def test_distilplace_load_gives_the_same(file):
    student = distilplace.load(file)
    assert isinstance(student, Student)
    assert np.array_equal(student.embed(iter(pictures(3))), Student(file).embed(pictures(3)))


def test_it_says_what_it_is(file):
    student = Student(file)
    assert student.fingerprint == card().fingerprint
    assert (student.metadata["model"], student.width) == ("grid", WIDTH)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"text": ""}, "DistilPlace did not export"),
        ({"text": "{"}, "is damaged"),
        ({"text": '{"format": 2}'}, "is of format 2, this version reads 1"),
        ({"embedding": {"width": 7, "metric": "cosine", "unit": False}}, r"7\] are expected"),
    ],
)
def test_files_that_are_not_ours_are_refused(tmp_path, settings, message):
    path = write_student(tmp_path / "other.onnx", **settings)
    with pytest.raises(UserError, match=message):
        Student(path).embed(pictures(2))


def test_damaged_files_and_settings_are_one_line(file, tmp_path):
    whole, path = file.read_bytes(), tmp_path / "bad.onnx"
    for content in (b"", b"no model", whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"student .*bad\.onnx") as refused:
            Student(path)
        assert "\n" not in str(refused.value)
    with pytest.raises(UserError, match="does not exist"):
        Student(tmp_path / "absent.onnx")
    with pytest.raises(UserError, match="0 threads"):
        Student(file, threads=0)
    with pytest.raises(UserError, match=r"unknown execution provider 'CPU': known: .*CPUExecutionProvider"):
        Student(file, providers=["CPU"])
    with pytest.raises(UserError, match="is no image"):
        Student(file).embed([3])
    with pytest.raises(UserError, match="a int is no image"):
        Student(file).embed(3)
    with pytest.raises(UserError, match=r"an array uint8 \[24, 32\] is no image"):
        Student(file).embed(pictures(1)[0, ..., 0])
    with pytest.raises(UserError, match="batches of 0 images"):
        Student(file).embed(pictures(2), batch_size=0)


def test_a_flipped_bit_anywhere_is_one_line(file, tmp_path):
    whole, path = file.read_bytes(), tmp_path / "bad.onnx"
    draw, entry = np.random.default_rng(0), whole.rindex(HASH.encode())
    for at in [*draw.integers(len(whole), size=150), *range(entry - 4, entry + len(HASH) + 4)]:
        flipped = bytearray(whole)
        flipped[at] ^= 1 << draw.integers(8)
        path.write_bytes(flipped)
        with pytest.raises(UserError, match=r"^student .*bad\.onnx is ") as refused:
            Student(path, threads=1)
        assert "\n" not in str(refused.value), at


def test_a_file_without_a_hash_opens_with_a_line_and_one_that_lost_it_does_not(tmp_path, caplog):
    older = write_student(tmp_path / "older.onnx", hashed=False)
    with caplog.at_level("INFO", "distilplace"):
        assert Student(older).embed(pictures(1)).shape == (1, WIDTH)
    assert [record.getMessage() for record in caplog.records] == [
        f"student {older} is of an older version and has no hash: damage to it would not be seen"
    ]
    lost = write_student(tmp_path / "lost.onnx", hashed=False, export={STATED: True})
    with pytest.raises(UserError, match=r"lost\.onnx is damaged or was changed by another program"):
        Student(lost)
    with pytest.raises(ValueError, match="lack an entry distilplace_blake2b"):
        stamped(older.read_bytes())


def test_the_runtime_loads_nothing_heavy(root, file):
    program = "import sys, numpy, distilplace, distilplace.tools.map.run as m\n"
    program += f"distilplace.load({str(file)!r}).embed(numpy.zeros((1, 24, 32, 3), numpy.uint8))\n"
    program += f"print(sorted(set({FOREIGN}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[]\n", "")
