"""Which files of a folder are taken as images, what is counted as left out, and what is refused by name."""

import logging
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distilplace.common.decoding import decode_rgb, image_suffixes
from distilplace.common.errors import UserError
from distilplace.common.inputs.image_files import find_images
from distilplace.datasets import create_dataset
from distilplace.datasets.loading import PlaceItems
from distilplace.evaluation.report.pictures import picture
from tests.miniature_frames import straight, write_run
from tests.miniature_images import numbered, write_images, write_picture, write_sequences

SUFFIXES = (".jpg", ".JPEG", ".png", ".webp", ".bmp", ".tif", ".TIFF", ".ppm")


def mixed(count: int) -> dict[str, int]:
    return {f"{k:04d}{SUFFIXES[k % len(SUFFIXES)]}": k for k in range(count)}


def test_images_of_any_suffix_are_read_and_the_rest_is_counted(tmp_path):
    write_images(tmp_path, mixed(16), numbered(range(16)))
    for name in ("notes.txt", "more.txt", "phone.heic", ".hidden.jpg", ".DS_Store", "bare"):
        (tmp_path / "database" / name).write_bytes(b"x")
    data = create_dataset("images", dataset_folder=tmp_path, frame_tolerance=0)
    tests = data.evaluation_set()
    assert sorted(r.images[0].name for r in tests.database[0]) == sorted(mixed(16))
    assert all(len(entry[0]) == 1 for entry in tests.query_sets[1].values())
    assert all(data.image(r.images[0]).mode == "RGB" for r in tests.database[0])
    kinds, rest = data.notes[:2]
    assert kinds.startswith("database: images of several suffixes, all read: ")
    assert all(f"2 {suffix.lower()}" in kinds for suffix in SUFFIXES)
    assert rest.startswith("database: 5 entries (2 .txt such as ")
    for part in ("1 .heic such as phone.heic", "1 hidden such as .hidden.jpg", "1 without suffix such as bare"):
        assert (part in rest) or ".heic" in image_suffixes()
    assert "pip install pillow-heif" in rest or ".heic" in image_suffixes()
    assert not any("queries: " in note for note in data.notes)


def test_a_folder_of_unreadable_kinds_says_what_it_holds(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"x")
    (tmp_path / "b.mp4").write_bytes(b"x")
    with pytest.raises(UserError, match=r"holds no image \(\.jpg.*it holds 2 entries \(2 \.mp4 such as [ab]\.mp4\)"):
        find_images(tmp_path)


def test_frames_count_what_they_leave_out(tmp_path):
    run = write_run(tmp_path / "run", straight(120, 2.0), cameras=("image_left",))
    for number, suffix in ((0, ".webp"), (2, ".BMP"), (4, ".tif")):
        path = run / "image_left" / f"{number:010d}.png"
        Image.open(path).save(path.with_suffix(suffix))
        path.unlink()
    (run / "image_left" / "times.txt").write_text("x")
    (run / "image_left" / "thumbs").mkdir()
    (run / "cloud" / "calib.yaml").write_text("x")
    data = create_dataset("frames", dataset_folder=tmp_path)
    assert "run/image_left: images of several suffixes, all read: 57 .png, 1 .webp, 1 .bmp, 1 .tif" in data.notes
    assert any(
        note.startswith("run/image_left: 2 entries (")
        and "1 .txt such as times.txt" in note
        and "1 folder such as thumbs" in note
        for note in data.notes
    )
    assert any(note.startswith("run/cloud: 1 entry (1 .yaml such as calib.yaml) left out") for note in data.notes)
    (run / "image_left" / "0000000006.png").rename(run / "image_left" / "0000000006.raw")
    with pytest.raises(UserError, match=r"frame 0000000006 has no file .*image_left also holds .*1 \.raw such as"):
        create_dataset("frames", dataset_folder=tmp_path)


@pytest.mark.timeout(30)
@pytest.mark.parametrize("kind", ["FIFO", "folder"])
def test_an_entry_that_is_no_file_is_refused_when_listed(tmp_path, kind):
    write_images(tmp_path / "pair", numbered(range(3)), numbered(range(3)))
    run = write_run(tmp_path / "drives" / "run", straight(120, 2.0), cameras=("image_left",), points=5)
    for path in (tmp_path / "pair" / "queries" / "0009.jpg", run / "image_left" / "9999.jpg"):
        os.mkfifo(path) if kind == "FIFO" else path.mkdir()
    for name, folder in (("images", "pair"), ("frames", "drives")):
        with pytest.raises(UserError, match=rf"image .*9\.jpg is a .*{kind}"):
            create_dataset(
                name, dataset_folder=tmp_path / folder, **({"frame_tolerance": 0} if name == "images" else {})
            )


def test_a_link_to_a_folder_above_is_refused(tmp_path):
    write_picture(tmp_path / "a" / "b" / "0.png", 0)
    (tmp_path / "a" / "b" / "up").symlink_to(tmp_path / "a", target_is_directory=True)
    with pytest.raises(UserError, match=r"a/b/up is a link to a folder above it: remove the link"):
        find_images(tmp_path)
    (tmp_path / "a" / "b" / "up").unlink()
    write_picture(tmp_path / "elsewhere" / "1.png", 1)
    (tmp_path / "a" / "b" / "aside").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert [path.name for path in find_images(tmp_path / "a").files] == ["0.png", "1.png"]


def _turned(path: Path) -> None:
    """The picture of ``path`` stored on its side, as a phone does, with the orientation that shows it upright."""
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(path) as opened:
        opened.transpose(Image.Transpose.ROTATE_90).save(path, exif=exif)


@pytest.mark.parametrize("name", ["images", "sequences", "vprice", "frames"])
def test_own_images_are_shown_upright_to_networks_and_reports(tmp_path, name):
    if name == "frames":
        write_run(tmp_path, straight(120, 2.0), cameras=("image_left",), cloud=None)
        settings = {}
    elif name == "images":
        write_images(tmp_path, numbered(range(4)), numbered(range(4)))
        settings = {"frame_tolerance": 0}
    else:
        write_sequences(tmp_path, 4, 4)
        settings = {"frame_tolerance": 0}
    before = create_dataset(name, dataset_folder=tmp_path, **settings)
    records = before.evaluation_set().distinct_records()
    pixels = [np.asarray(before.image(record.images[0])) for record in records]
    for path in {path for r in [*records, *_training(before)] for path in r.images}:
        _turned(path)
    after = create_dataset(name, dataset_folder=tmp_path, **settings)
    for record, expected in zip(after.evaluation_set().distinct_records(), pixels, strict=True):
        assert np.array_equal(np.asarray(after.image(record.images[0])), expected)
        assert np.array_equal(np.asarray(picture(record, 999)), expected)


def _training(data):
    try:
        return data.training_set().records
    except UserError:
        return []


def test_published_sets_keep_their_pixels(tmp_path, oxford_copy):
    data = create_dataset("oxford", dataset_folder=oxford_copy.dataset_folder, image_path=oxford_copy.image_path)
    record = data.training_set().records[0]
    before = np.asarray(data.image(record.images[0]))
    pixels = Image.fromarray(before)
    record.images[0].unlink()
    exif = Image.Exif()
    exif[0x0112] = 3
    pixels.save(record.images[0], exif=exif)
    assert np.array_equal(np.asarray(data.image(record.images[0])), before)
    assert not record.upright
    summer = write_images(tmp_path, numbered(range(3)), numbered(range(3)), ("summer", "winter"))
    nordland = create_dataset("nordland", dataset_folder=summer, frame_tolerance=0)
    assert not nordland.upright
    assert not any(r.upright for r in nordland.evaluation_set().distinct_records())


def test_sixteen_bit_queries_equal_their_eight_bit_database(tmp_path):
    """What make_cases.py writes as images/grey_16_bit: pixels differ in depth alone."""
    random = np.random.default_rng(3)
    for number in range(6):
        grey = random.integers(0, 256, (24, 32), dtype=np.uint8)
        for side, values in (("database", grey), ("queries", grey.astype(np.uint16) * 257)):
            (tmp_path / side).mkdir(exist_ok=True)
            Image.fromarray(values).save(tmp_path / side / f"{number:04d}.png")
    data = create_dataset("images", dataset_folder=tmp_path, frame_tolerance=0)
    tests = data.evaluation_set()
    for one, other in zip(tests.database[0], tests.queries[1], strict=True):
        assert np.array_equal(np.asarray(data.image(one.images[0])), np.asarray(data.image(other.images[0])))


def test_images_that_lose_something_are_told_once_a_folder(tmp_path):
    """A thermal camera's 16 bits: so narrow a range leaves a few grey levels."""
    thermal = np.linspace(7000, 8500, 32 * 24).reshape(24, 32).astype(np.uint16)
    for number in range(3):
        for side, values in (("database", np.full((24, 32), 9, np.uint8)), ("queries", thermal)):
            (tmp_path / side).mkdir(exist_ok=True)
            Image.fromarray(values).save(tmp_path / side / f"{number}.png")
    pages = [Image.new("L", (32, 24), shade) for shade in (0, 99)]
    pages[0].save(tmp_path / "database" / "0.tif", save_all=True, append_images=pages[1:])
    (tmp_path / "database" / "0.png").unlink()
    notes = create_dataset("images", dataset_folder=tmp_path, frame_tolerance=0).notes
    assert "queries: 0.png: values (7000 to 8500) are scaled to 8 bits by their kind's white, 7 grey levels" in notes
    assert "database: 0.tif: of 2 pictures the first is read" in notes
    run = write_run(tmp_path / "drives" / "run", straight(120, 2.0), cameras=("image_left",), cloud=None)
    for path in (run / "image_left").iterdir():
        Image.fromarray(thermal).save(path)
    notes = create_dataset("frames", dataset_folder=tmp_path / "drives").notes
    assert len([note for note in notes if note.startswith("run/image_left: 0000000000.png: values (7000 to")]) == 1


def test_a_data_set_of_too_few_bits_is_warned_of_once(tmp_path, caplog, monkeypatch):
    """Ten bits in sixteen: every picture is nearly black."""
    monkeypatch.setattr(logging.getLogger("distilplace"), "propagate", True)
    for number in range(3):
        for side in ("database", "queries"):
            (tmp_path / side).mkdir(exist_ok=True)
            values = np.linspace(0, 1023, 32 * 24).astype(np.uint16)
            Image.fromarray(values.reshape(24, 32)).save(tmp_path / side / f"{number}.png")
    create_dataset("images", dataset_folder=tmp_path, frame_tolerance=0)
    warned = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warned) == 1
    assert "multiply them by 64" in warned[0]
    assert "(so in 2 folders)" in warned[0]


def test_one_folder_under_two_names_is_refused(tmp_path):
    write_images(tmp_path, numbered(range(4)), {})
    (tmp_path / "queries").symlink_to("database", target_is_directory=True)
    with pytest.raises(UserError, match=r"database/0000\.png and query queries/0000\.png are one file, .*3 more pairs"):
        create_dataset("images", dataset_folder=tmp_path, frame_tolerance=0)


def test_a_list_that_names_an_image_twice_is_refused(tmp_path):
    write_images(tmp_path, numbered(range(3)), numbered(range(3)))
    listed = tmp_path / "queries_images_paths.txt"
    listed.write_text("0000.png\n0002.png\n")
    data = create_dataset("images", dataset_folder=tmp_path, frame_tolerance=0)
    assert "queries: 2 images as queries_images_paths.txt lists them" in data.notes
    listed.write_text("0000.png\n0002.png\n0000.png\n")
    with pytest.raises(UserError, match=r"names 1 paths twice, such as .*0000\.png"):
        create_dataset("images", dataset_folder=tmp_path, frame_tolerance=0)


@pytest.mark.timeout(30)
def test_a_pipe_in_place_of_a_listed_image_is_said_before_anything_is_computed(oxford_copy, quantize):
    data = create_dataset("oxford", dataset_folder=oxford_copy.dataset_folder, image_path=oxford_copy.image_path)
    records = data.training_set().records
    records[0].images[0].unlink()
    os.mkfifo(records[0].images[0])
    with pytest.raises(UserError, match=r"is a named pipe \(FIFO\), not a file"):
        PlaceItems(data, records, wants=("images",), quantize=None, augment=False, seed=0)


def test_names_that_are_no_text_and_folders_that_cannot_be_read(tmp_path, monkeypatch):
    write_images(tmp_path, numbered(range(3)), numbered(range(3)))
    odd = os.path.join(os.fsencode(tmp_path), b"database", b"caf\xe9.txt")
    os.close(os.open(odd, os.O_CREAT))
    data = create_dataset("images", dataset_folder=tmp_path, frame_tolerance=0)
    (note,) = [note for note in data.notes if "left out" in note]
    assert note == r"database: 1 entry (1 .txt such as caf\udce9.txt) left out"
    os.rename(odd, odd.replace(b".txt", b"7.png"))
    with pytest.raises(UserError, match=r"caf.*7\.png has a name that is no UTF-8: rename it") as caught:
        create_dataset("images", dataset_folder=tmp_path, frame_tolerance=0)
    str(caught.value).encode()
    real = os.scandir

    def refuse(folder):
        if Path(str(folder)).name == "queries":
            raise PermissionError(13, "Permission denied", str(folder))
        return real(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match=r"folder .*queries cannot be read \(Permission denied\)"):
        find_images(tmp_path / "queries")


@pytest.mark.parametrize("upright", [False, True])
def test_a_png_whose_pixels_are_damaged_is_refused(tmp_path, upright):
    """Asking a PNG for its orientation loads it: what is damaged must not be hidden by that."""
    path = tmp_path / "damaged.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)).save(path)
    content = path.read_bytes()
    path.write_bytes(content[:400] + bytes(len(content) - 400))
    with pytest.raises(UserError, match="cannot be decoded"):
        decode_rgb(path, upright=upright)
