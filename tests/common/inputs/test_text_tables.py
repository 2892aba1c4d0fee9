"""Tables as spreadsheets and scripts write them: read right, or the cause named; numbers in every reader alike."""

import numpy as np
import pytest

from distilplace.common.errors import UserError
from distilplace.common.inputs.position_checks import doubt
from distilplace.common.inputs.text_tables import read_table
from distilplace.datasets import create_dataset
from distilplace.datasets.io.utm_names import parse_utm
from distilplace.datasets.readers.kitti.layout import read_poses
from distilplace.datasets.readers.landmarks.google_landmarks import read_clean_list
from distilplace.datasets.readers.landmarks.svd_lists import read_frame_counts
from distilplace.datasets.readers.oxford.tables import Locations, parse_submap
from distilplace.datasets.readers.poses.lists import read_pose_csv, read_pose_list
from distilplace.datasets.readers.poses.seven_scenes import read_pose_matrix, read_split
from distilplace.datasets.routes import metres_above, metres_below
from tests.miniature_frames import straight, write_run

RADII = {"positive_radius": 3.0, "negative_radius": 10.0, "eval_radius": 5.0}
THREE = ("frame", "easting", "northing")


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "run", straight(120, 2.0), cameras=("image_left",), cloud=None)


def opened(run, **radii):
    return create_dataset("frames", dataset_folder=run, **(radii or RADII))


def rewritten(run, change):
    path = run / "poses.csv"
    path.write_bytes(change(path.read_text()))


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace(",", ";").encode(),
        lambda text: text.replace(",", "\t").encode(),
        lambda text: text.replace(",", " , ").encode(),
        lambda text: ("\ufeff" + text.replace(",", ";").replace("\n", "\r\n")).encode(),
        lambda text: text.replace("\n", "\r").encode(),
        lambda text: ("sep=;\n" + text.replace(",", ";")).encode(),
        lambda text: text.replace("easting,northing", "Easting,NORTHING").encode(),
        lambda text: text.replace("frame,timestamp", '"frame","timestamp"').encode(),
        lambda text: ("\n" + text.replace("\n", "\n\n")).encode(),
        lambda text: "\n".join(f"{line},," for line in text.splitlines()).encode(),
    ],
)
def test_poses_of_any_program_are_the_same(run, change):
    before = opened(run).training_set().records
    rewritten(run, change)
    assert opened(run).training_set().records == before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda text: text.replace("easting,northing", "x,Y").encode(),
            r"easting, northing missing .*x points east and y",
        ),
        (lambda text: text.replace("easting,northing", "Longitude,latitude").encode(), "are degrees: convert them"),
        (lambda text: text.replace(",", " ").encode(), "separated by blanks, commas, semicolons or tabs are read"),
        (lambda text: text.replace(",", "|").encode(), r"separated by '\|'"),
        (lambda text: text.split("\n", 1)[1].encode(), "the first line holds numbers, not names"),
        (lambda text: text.replace("altitude", "Easting").encode(), r"column\(s\) easting repeated in the header"),
        (lambda text: text.encode("utf-16"), "is UTF-16 text: save it as UTF-8"),
        (lambda text: text.replace("0.500", "0.5\0").replace("0.5", "0\0.5").encode(), "zero bytes"),
        (
            lambda text: text.replace(",", ";").replace("2.000000", "2,000000").encode(),
            r"'2,000000'.*\(a decimal comma",
        ),
        (lambda text: text.replace(",4.000000,", ",4_0.0,").encode(), r"'4_0\.0', not a finite number \(underscores"),
        (
            lambda text: text.replace(",4.000000,", ",\u0664,").encode(),
            r"'\u0664', not a finite number \(only the digits",
        ),
        (lambda text: text.replace(",4.000000,", ",1e999,").encode(), "'1e999', not a finite number"),
    ],
)
def test_poses_that_could_only_be_guessed_name_the_cause(run, change, said):
    rewritten(run, change)
    with pytest.raises(UserError, match=said) as caught:
        opened(run)
    assert str(run / "poses.csv") in str(caught.value)


def located(run, places):
    rows = [f"{2 * index:010d},{0.1 * index:.1f},{east!r},{north!r}" for index, (north, east) in enumerate(places)]
    (run / "poses.csv").write_text("\n".join(["frame,timestamp,easting,northing", *rows]) + "\n")


@pytest.mark.parametrize(
    ("north", "east", "zone"), [(49.01, 8.4, r"32N \(EPSG:32632\)"), (-33.9, 151.2, r"56S \(EPSG:32756\)")]
)
@pytest.mark.parametrize("radii", [RADII, {"frames_map": "auto"}])
def test_degrees_are_named(run, radii, north, east, zone):
    located(run, [(north, east + index * 4e-5) for index in range(60)])
    with pytest.raises(UserError, match=rf"span less than a metre \(0\.0024 m\): they look like degrees .*zone {zone}"):
        opened(run, **radii)


def test_kilometres_and_long_journeys_in_degrees(run):
    located(run, [(5428.31, 455.12 + index * 4e-3) for index in range(60)])
    with pytest.raises(UserError, match=r"span less than a metre \(0\.24 m\): metres are expected: .* kilometres"):
        opened(run)
    located(run, [(49.01 + index * 9e-3, 8.4) for index in range(130)][:60] * 1)
    with pytest.raises(UserError, match="span less than a metre"):
        opened(run)
    far = np.column_stack([49.0 + 9e-3 * np.arange(400), np.full(400, 8.4)])
    assert "look like degrees" in doubt([far])
    assert doubt([far - far[0]]) is None  # a map of its own, walked slowly
    assert doubt([straight(120, 2.0)]) is None


def test_utm_names_in_degrees_are_refused(tmp_path):
    from PIL import Image

    for side, shift in (("database", 0.0), ("queries", 1e-5)):
        (tmp_path / side).mkdir()
        for index in range(4):
            name = f"@{8.4 + index * 1e-4 + shift:.6f}@49.01{'@' * 13}.png"
            Image.new("RGB", (8, 6)).save(tmp_path / side / name)
    with pytest.raises(UserError, match=r"@utm names span less than a metre .* look like degrees"):
        create_dataset("images", dataset_folder=tmp_path).evaluation_set()


def test_radii_in_messages_are_true(run):
    """Never "below 0.0 m", never a value that would be refused again."""
    assert (metres_below(41.68), metres_below(0.0468), metres_below(2.0)) == ("41.6", "0.046", "2.0")
    assert (metres_above(2.04), metres_above(0.0461), metres_above(2.0)) == ("2.1", "0.047", "2.0")
    located(run, [(0.0, 0.04 * index) for index in range(60)])
    with pytest.raises(UserError, match=r"lower --negative_radius below 1\.5 m \(and --positive_radius 2 with it\)"):
        opened(run, positive_radius=2.0, negative_radius=10.0, eval_radius=1.0)
    opened(run, positive_radius=1.0, negative_radius=1.4, eval_radius=1.0)


LATIN, ARABIC = "1_0", "\u0661"


@pytest.mark.parametrize("number", [LATIN, ARABIC])
def test_no_reader_takes_python_s_own_spellings(tmp_path, number):
    path = tmp_path / "list.txt"
    pose = f"a.png {number} 2 3 1 0 0 0"
    csv = f"img_path,t1,t2,t3,q1,q2,q3,q4\na.png,{number},2,3,1,0,0,0\n"
    locations = f"timestamp,northing,easting\n77,{number},2\n"
    folder = tmp_path / "oxford" / "run"
    folder.mkdir(parents=True)
    (folder / "pointcloud_locations_20m.csv").write_text(locations, encoding="utf-8")
    readers = [
        (lambda: read_pose_list(path), f"one\ntwo\n\n{pose}\n"),
        (lambda: read_pose_csv(path), csv),
        (lambda: read_poses(path), f"{number} 0 0 0 0 1 0 0 0 0 1 0\n"),
        (lambda: read_split(path), f"sequence{number}\n"),
        (lambda: read_pose_matrix(path), f"{number} 0 0 0 0 1 0 0 0 0 1 0 0 0 0 1\n"),
        (lambda: read_frame_counts(path), f"video {number}\n"),
        (lambda: read_clean_list(path), f"landmark_id,images\n{number},{'a' * 16}\n"),
        (lambda: parse_utm(tmp_path / f"@{number}@5{'@' * 13}.jpg", tmp_path), ""),
        (lambda: parse_submap(f"oxford/run/pointcloud_20m/{number}.bin", path), ""),
        (lambda: Locations(tmp_path / "x.pickle").of("oxford/run/pointcloud_20m/77.bin"), ""),
    ]
    for read, text in readers:
        path.write_text(text, encoding="utf-8")
        with pytest.raises(UserError):
            read()
        path.write_text(text.replace(number, "1"), encoding="utf-8")


def test_repeated_columns_and_stamps_are_refused_everywhere(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("img_path,t1,t2,t3,q1,q2,q3,q4,T1\na.png,1,2,3,1,0,0,0,9\n")
    with pytest.raises(UserError, match=r"column\(s\) t1 repeated"):
        read_pose_csv(path)
    folder = tmp_path / "oxford" / "run"
    folder.mkdir(parents=True)
    (folder / "pointcloud_locations_20m.csv").write_text("timestamp,northing,easting\n77,1,2\n77,3,4\n")
    with pytest.raises(UserError, match="line 3: timestamp 77 stands there twice"):
        Locations(tmp_path / "x.pickle").of("oxford/run/pointcloud_20m/77.bin")


def test_quoted_cells_keep_their_separators(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('Frame;easting;northing;note\n"a;1";1;2;"x, y"\n')
    ((line, row),) = read_table(path, THREE, "").rows
    assert (line, row["frame"], row["note"]) == (2, "a;1", "x, y")


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize(
    ("cell", "end"),
    [('"open', "\n"), ('"open', ""), ('"two\nlines"', "\n"), ('"closed"behind', "\n"), ('"', "\n")],
)
def test_a_quotation_mark_takes_no_rows_after_it(tmp_path, separator, cell, end):
    """An open mark took the rows up to the next mark for its cell, and the set was smaller without a word."""
    path = tmp_path / "a.csv"
    rows = [["frame", "easting", "northing", "note"], ["a", "1", "2", "x"], ["b", "1", "2", cell]]
    later = [["c", "1", "2", "x"], ["d", "1", "2", 'y"']] if end else []
    path.write_text("\n".join(separator.join(row) for row in [*rows, *later]) + end)
    with pytest.raises(UserError, match=r"a\.csv line 3 cannot be read as a row: a cell begins with a quotation mark"):
        read_table(path, THREE, "")


def test_a_mark_inside_a_cell_is_a_letter(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('frame,easting,northing,note\na,1,2,5" pipe\nb,1,2,"say ""yes"""\n')
    assert [row["note"] for _, row in read_table(path, THREE, "").rows] == ['5" pipe', 'say "yes"']
