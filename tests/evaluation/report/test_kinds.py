"""Reports of poses, landmarks and videos: whole, escaped, readable without a network, true to the results."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from distilplace.datasets.benchmarks import LandmarkSet, PoseSet, VideoSet
from distilplace.datasets.records import PlaceRecord
from distilplace.evaluation.landmarks import evaluate_landmarks
from distilplace.evaluation.poses import evaluate_poses
from distilplace.evaluation.report import figures
from distilplace.evaluation.report.kinds import kind_of
from distilplace.evaluation.report.parts import ReportEntry
from distilplace.evaluation.report.pictures import PictureFolder
from distilplace.evaluation.report.sections.camera_plans import draw_plan, plan_window, widest_axes
from distilplace.evaluation.report.sections.poses import choose_by_error, cumulative
from distilplace.evaluation.report.sections.precisions import draw_by_thirds
from distilplace.evaluation.report.sections.videos import listed, spread
from distilplace.evaluation.report.writer import write_report
from distilplace.evaluation.videos import evaluate_videos

NAMES = ("teacher <script>x</script> $a_1$", "student & co")
FACTS = ({"parameters": "1.5 M", "weights": "logs/" * 20}, {"parameters": "0.2 M"})


def record(folder, name, images=True, crop=None):
    picture = folder / f"{name}.png"
    if images and not picture.exists():
        random = np.random.default_rng([ord(letter) for letter in name])
        Image.new("RGB", (64, 40), tuple(random.integers(0, 256, 3).tolist())).save(picture)
    return PlaceRecord(f"<i>{name}", "run", None, (picture,) if images else (), 0.0, 0.0, crop)


def pose_case(folder, images=True, count=15):
    random = np.random.default_rng(0)
    true = np.column_stack([random.uniform(-9, 9, (count, 3)) * (1, 0.1, 3), random.standard_normal((count, 4))])
    benchmark = PoseSet("<b>kings", [record(folder, f"p{i}", images) for i in range(count)], true)
    results = [evaluate_poses(true + noise * random.standard_normal((count, 7)), benchmark) for noise in (0.1, 1.0)]
    return benchmark, results


def landmark_case(folder, images=True):
    random = np.random.default_rng(1)
    shown = np.arange(40) % 5
    crop = (16.0, 10.0, 48.0, 30.0)
    of = [np.flatnonzero(shown == query % 5) for query in range(9)]
    benchmark = LandmarkSet(
        "<b>town",
        [record(folder, f"d{i}", images) for i in range(40)],
        [record(folder, f"q{i}", images, crop) for i in range(9)],
        easy=[rows[:3] for rows in of],
        hard=[rows[3:5] if query != 4 else rows[:0] for query, rows in enumerate(of)],
        junk=[rows[5:7] for rows in of],
    )
    centre = random.standard_normal((5, 8))
    results = [
        evaluate_landmarks(
            centre[np.arange(9) % 5] + noise * random.standard_normal((9, 8)),
            centre[shown] + noise * random.standard_normal((40, 8)),
            benchmark,
        )
        for noise in (0.3, 1.5)
    ]
    return benchmark, results


def video_case(folder, images=True):
    random = np.random.default_rng(2)
    names = [*(f"q{i}" for i in range(6)), *(f"c{i}" for i in range(18)), *(f"u{i}" for i in range(10))]
    videos = {name: [record(folder, f"{name}f{k}", images) for k in range(7)] for name in names}
    labels = [{f"c{3 * i}": 1, f"c{3 * i + 1}": 0, f"c{3 * i + 2}": 1} for i in range(6)]
    benchmark = VideoSet("<b>svd", videos, names[:6], labels, names[24:])
    centre = random.standard_normal((34, 8))
    for query in range(6):
        for video in (3 * query, 3 * query + 2):
            centre[6 + video] = centre[query]
    results = [
        evaluate_videos(
            {name: centre[i] + noise * random.standard_normal((7, 8)) for i, name in enumerate(names)}, benchmark
        )
        for noise in (0.3, 3.0)
    ]
    return benchmark, results


CASES = {"poses": pose_case, "landmarks": landmark_case, "videos": video_case}


def write(folder, entries, benchmark, **options):
    return write_report(folder, kind_of(benchmark), entries, benchmark, **options)


def entries_of(results):
    return [ReportEntry(*parts) for parts in zip(NAMES, results, FACTS, strict=True)]


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.links, self.text, self.best, self._in_best = [], [], "", [], False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.links += [value for name, value in attributes if name in ("src", "href")]
        self._in_best = tag == "td" and dict(attributes).get("class") == "best"

    def handle_data(self, data):
        self.text += data
        if self._in_best:
            self.best.append(data)
            self._in_best = False

    def tiles(self):
        return [
            a["class"].split()[1] for tag, a in self.tags if tag == "figure" and len(a.get("class", "").split()) > 1
        ]


@pytest.fixture
def quick(monkeypatch):
    """Figures are laid out but not drawn, which is most of a report's time."""
    monkeypatch.setattr(figures, "png", lambda figure: repr(figure.get_size_inches()).encode())


@pytest.fixture(scope="module", params=CASES)
def written(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    benchmark, results = CASES[request.param](folder)
    options = {"title": "<h1>T", "notes": ["a < b"], "settings": {"lr": 0.001, "note": "<u>x</u>"}, "seed": 3}
    path = write(folder / "report", entries_of(results), benchmark, **options)
    return benchmark, results, path, options


def test_a_report_is_whole_escaped_and_needs_no_network(written):
    benchmark, _, path, _ = written
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert path.name == "index.html"
    assert not re.search(r"https?:|//[a-z]|@import|url\(", text)
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "link", "i", "u", "iframe"})
    for raw in (*NAMES, benchmark.name, benchmark.summary(), "a < b", "<u>x</u>", "<h1>T", "1.5 M", "logs/" * 20):
        assert raw in page.text
    for link in page.links:
        with Image.open(path.parent / link) as image:
            image.verify()
    assert len(page.links) >= 8
    assert {link.split("/")[-1] for link in page.links} == {p.name for p in (path.parent / "images").iterdir()}
    assert [p.name for p in path.parent.rglob(".*")] == []


def test_the_table_holds_the_cells_and_marks_the_best(written):
    benchmark, results, path, _ = written
    page = Page(path.read_text(encoding="utf-8"))
    for cells in (*(result.columns() for result in results), results[0].chance_columns()):
        assert all(name in page.text and value in page.text for name, value in cells.items())
    choose = min if isinstance(benchmark, PoseSet) else max
    expected = [choose((r.columns()[name] for r in results), key=float) for name in results[0].columns()]
    assert page.best == expected


def test_the_same_input_gives_the_same_bytes_and_old_pictures_go(written):
    benchmark, results, path, options = written
    first = {p.name: p.read_bytes() for p in path.parent.rglob("*") if p.is_file()}
    (path.parent / "images" / ("0" * 16 + ".png")).write_bytes(b"old")
    write(path.parent, entries_of(results), benchmark, **options)
    assert {p.name: p.read_bytes() for p in path.parent.rglob("*") if p.is_file()} == first


def test_a_failure_leaves_the_earlier_report(written, quick, monkeypatch):
    benchmark, results, path, _ = written
    before = path.read_text(encoding="utf-8")
    monkeypatch.setattr("distilplace.evaluation.report.writer.TEMPLATE", "absent.j2")
    with pytest.raises(Exception, match="absent"):
        write(path.parent, entries_of(results)[::-1], benchmark, title="new")
    assert path.read_text(encoding="utf-8") == before
    assert all((path.parent / link).is_file() for link in Page(before).links)


@pytest.mark.parametrize("kind", CASES)
def test_pictures_that_cannot_be_read_do_not_stop_a_report(kind, tmp_path, quick):
    benchmark, results = CASES[kind](tmp_path)
    for number, picture in enumerate(sorted(tmp_path.glob("*.png"))):
        if number % 2:
            picture.write_bytes(b"\x89PNG not really")
        elif number % 4:
            picture.unlink()
    page = Page(write(tmp_path / "r", entries_of(results), benchmark, title="T").read_text())
    assert "alt" in str(page.tags)
    for picture in tmp_path.glob("*.png"):
        picture.unlink()
    page = Page(write(tmp_path / "r", entries_of(results), benchmark, title="T").read_text())
    assert "Queries and retrieved places" not in page.text
    assert "Images" not in page.text
    assert len(page.links) == (3 if kind == "poses" else 1)


def test_records_without_pictures_and_a_single_entry(tmp_path, quick):
    benchmark, results = landmark_case(tmp_path, images=False)
    page = Page(write(tmp_path / "r", entries_of(results)[:1], benchmark, title="T").read_text())
    assert len(page.links) == 1
    assert page.best == []


def test_entries_must_fit_the_benchmark(tmp_path, quick):
    poses, found = pose_case(tmp_path)
    with pytest.raises(ValueError, match="at least one"):
        write(tmp_path / "r", [], poses, title="T")
    fewer = replace(poses, records=poses.records[1:], poses=poses.poses[1:])
    with pytest.raises(ValueError, match="results of 15 images, not 14"):
        write(tmp_path / "r", entries_of(found), fewer, title="T")
    towns, answers = landmark_case(tmp_path)
    with pytest.raises(ValueError, match="9 queries, not 8"):
        write(tmp_path / "r", entries_of(answers), replace(towns, queries=towns.queries[1:]), title="T")
    with pytest.raises(TypeError, match="no report of a str"):
        kind_of("town")
    assert not (tmp_path / "r").exists()


def test_poses_show_the_errors_of_the_images_they_name(tmp_path, quick):
    benchmark, results = pose_case(tmp_path)
    text = Page(write(tmp_path / "r", entries_of(results), benchmark, title="T").read_text()).text
    mean = (results[0].metres + results[1].metres) / 2
    for index in (mean.argmin(), mean.argmax(), np.argsort(mean)[7]):
        assert f"<i>p{index}" in text
        own = text[text.index(f"<i>p{index}\n") :]
        for result in results:
            assert f"{result.metres[index]:.2f}{result.degrees[index]:.2f}" in own
        assert ", ".join(f"{value:.2f}" for value in benchmark.poses[index, :3]) in own
    assert "in x and z" in text


def test_landmark_tiles_tell_correct_ignored_and_wrong(tmp_path, quick):
    benchmark, results = landmark_case(tmp_path)
    page = Page(write(tmp_path / "r", entries_of(results), benchmark, title="T").read_text())
    asked = [int(number) for number in re.findall(r"<i>q(\d+): \d easy", page.text)]
    assert len(asked) == 6
    expected = []
    for query in asked:
        for result in results:
            cosines = result.space.queries[0][query] @ result.space.database[0].T
            cosines = cosines / np.linalg.norm(result.space.database[0], axis=1)
            for index in np.argsort(-cosines)[:5]:
                if index in benchmark.easy[query] or index in benchmark.hard[query]:
                    expected.append("correct")
                else:
                    expected.append("ignored" if index in benchmark.junk[query] else "wrong")
    assert page.tiles() == expected
    assert set(expected) == {"correct", "ignored", "wrong"}


def test_videos_show_ranks_and_first_answers(tmp_path, quick):
    benchmark, results = video_case(tmp_path)
    page = Page(write(tmp_path / "r", entries_of(results), benchmark, title="T").read_text())
    for query in range(6):
        own = page.text[page.text.index(f"query q{query}: 2 near-duplicates") :]
        assert all(", ".join(map(str, result.ranks[query])) in own for result in results)
    for result in results:
        first = [["u3", f"c{3 * query + 1}", f"c{3 * query + 2}", "u4"] for query in range(6)]
        object.__setattr__(result, "first", first)
    page = Page(write(tmp_path / "r", entries_of(results), benchmark, title="T").read_text())
    assert page.tiles() == ["wrong", "wrong", "correct"] * 12
    for words in ("1. unlabelled: u3", "2. no near-duplicate: c1", "3. near-duplicate: c2"):
        assert words in page.text


def test_a_crop_is_framed_where_it_lies(tmp_path):
    plain, cut = record(tmp_path, "a"), record(tmp_path, "a", crop=(16.0, 10.0, 48.0, 30.0))
    images = PictureFolder(tmp_path / "images")
    links = [images.add_record(plain, 32), images.add_record(cut, 32), images.add_record(cut, 32)]
    assert links[0] != links[1] == links[2]
    with Image.open(tmp_path / links[0]) as one, Image.open(tmp_path / links[1]) as other:
        difference = np.abs(np.asarray(one, dtype=int) - np.asarray(other)).sum(axis=2)
    framed = difference > 150
    rows, columns = np.flatnonzero(framed.any(axis=1)), np.flatnonzero(framed.any(axis=0))
    assert abs(rows[0] - 5) <= 1
    assert abs(rows[-1] - 14) <= 1
    assert abs(columns[0] - 8) <= 1
    assert abs(columns[-1] - 23) <= 1


@settings(max_examples=25, deadline=None)
@given(st.lists(st.one_of(st.floats(0, 1), st.just(float("nan"))), max_size=14), st.integers(0, 3), st.integers(0, 5))
def test_queries_are_drawn_from_their_thirds(precisions, each, seed):
    pictured = [index % 4 != 3 for index in range(len(precisions))]
    values = {"a": np.array(precisions), "b": np.array(precisions) / 2}
    drawn = draw_by_thirds(values, pictured, each, seed)
    assert drawn == draw_by_thirds(values, pictured, each, seed)
    usable = [i for i, value in enumerate(precisions) if value == value and pictured[i]]
    assert {query for _, query in drawn} <= set(usable)
    assert len({query for _, query in drawn}) == len(drawn)
    chosen = [precisions[query] for _, query in drawn]
    assert chosen == sorted(chosen, reverse=True)
    if len(usable) >= 3 * each:
        assert [tag for tag, _ in drawn] == [
            t for t in ("best third", "middle third", "worst third") for _ in range(each)
        ]
    for tag, query in drawn:
        better = sum(precisions[other] > precisions[query] for other in usable)
        assert better < len(usable) / 3 + 1 if tag == "best third" else better < len(usable)


def test_small_helpers():
    assert spread(60, 5) == [0, 15, 30, 44, 59]
    assert (spread(3, 5), spread(1, 5), spread(0, 5)) == ([0, 1, 2], [0], [])
    assert listed(np.arange(1, 4)) == "1, 2, 3"
    assert [index for _, _, index in choose_by_error(np.arange(9.0), 2)] == [0, 1, 3, 4, 7, 8]
    assert [index for _, _, index in choose_by_error(np.arange(5.0), 1)] == [0, 2, 4]
    assert listed(np.arange(1, 12), count=3) == "1, 2, 3 and 8 more"
    assert cumulative(np.array([2.0, 1.0]), 2.0)[1].tolist() == [0.0, 50.0, 100.0, 100.0]
    positions = np.array([[0.0, 5.0, 1.0], [1.0, -5.0, 9.0]])
    assert widest_axes(positions) == (1, 2)
    (left, right), (bottom, top) = plan_window(positions[:, 1:], [positions[:, 1:] + 100.0])
    assert left < -5
    assert bottom < 1
    assert right > 90
    assert top > 90
    one = np.zeros((1, 2))
    assert draw_plan(one, one, ("x", "y"), plan_window(one, [one]), "#000000")[:4]


def test_another_seed_draws_other_queries():
    values = {"a": np.linspace(0, 1, 60)}
    assert draw_by_thirds(values, [True] * 60, 3, 0) != draw_by_thirds(values, [True] * 60, 3, 1)
