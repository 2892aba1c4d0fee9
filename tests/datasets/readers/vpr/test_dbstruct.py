"""dbStruct files: real ones of seqNet, every way of writing cells, and everything that can be wrong in one."""

import contextlib
import itertools
import random
import struct as packing

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.io import loadmat, savemat

from distilplace.common.errors import UserError
from distilplace.datasets.io.mat_elements import require_sound_mat
from distilplace.datasets.readers.vpr.dbstruct import read_dbstruct
from tests.miniature_dbstruct import save_struct, write_struct

DATABASE = ["000/a.jpg", "000/b.jpg", "001/c.jpg", "001/d.jpg", "002/e.jpg"]
QUERIES = ["000/q.jpg", "003/a-longer-name.jpg"]
REGIONS = [
    (5735712.768124, 620084.402381),
    (5735611.299219, 620540.270327),
    (5735237.358209, 620543.094379),
    (5734749.303802, 619932.693364),
]
"""Northing and easting of the centres of PointNetVLAD's squares P1-P4, half-width 150 m."""


def _written(path, **options):
    places = np.arange(14.0).reshape(7, 2) + 584000.125
    return write_struct(path, DATABASE, QUERIES, places[:5], places[5:], **options)


def _fields(path):
    stored = loadmat(path)["dbStruct"][0, 0]
    return {name: stored[name] for name in stored.dtype.names}


def test_every_real_file_loads(real_data):
    files = sorted(real_data("samples/dbstruct").glob("*.db"))
    assert files
    for path in files:
        found, stored = read_dbstruct(path), _fields(path)
        assert (len(found.database), len(found.queries)) == (stored["numImages"].item(), stored["numQueries"].item())
        for names, cells in ((found.database, stored["dbImageFns"]), (found.queries, stored["qImageFns"])):
            assert names == [np.ravel(cell)[0].strip() for cell in cells.ravel()]
        for places, rows in ((found.database_positions, stored["utmDb"]), (found.query_positions, stored["utmQ"])):
            assert places.shape == (rows.shape[1], 2)
            assert all(np.array_equal(places[:, k], rows[k]) for k in range(len(rows)))
        assert found.database_times is None


def test_real_robotcar_lists_lie_in_the_known_regions(real_data):
    name = "oxford-pnv_2015-03-17-11-08-44_2014-12-16-18-44-24_test_d-25_d2-5.db"
    found = read_dbstruct(real_data("samples/dbstruct") / name)
    assert (len(found.database), len(found.queries)) == (1570, 1579)
    assert (found.which_set, found.positive_threshold, found.nontrivial_threshold) == ("test", 25.0, 5.0)
    assert not found.frame_numbers
    counts = []
    for places in (found.database_positions, found.query_positions):
        counts.append([0] * 4)
        for (north, east), (k, centre) in itertools.product(places, enumerate(REGIONS)):
            counts[-1][k] += abs(north - centre[0]) < 150 and abs(east - centre[1]) < 150
    assert counts == [[775, 204, 363, 228], [780, 201, 365, 233]]


def test_real_nordland_has_frame_numbers(real_data):
    found = read_dbstruct(real_data("samples/dbstruct") / "nordland_val_d-1_d2-1.db")
    assert found.frame_numbers
    assert found.positive_threshold == 1.0
    assert found.database_positions[:3].tolist() == [[18200.0, 0.0], [18201.0, 0.0], [18202.0, 0.0]]
    assert found.database[:1] == ["images-23176.png"]


@pytest.mark.parametrize("order", ["netvlad", "seqnet"])
@pytest.mark.parametrize("cells", ["column", "row", "nested", "chars"])
@pytest.mark.parametrize("times", [None, "numbers", "text"])
def test_fields_are_read_by_name_however_they_are_wrapped(tmp_path, order, cells, times):
    stamps = None
    if times == "numbers":
        stamps = (np.arange(5.0) + 200901, np.arange(2.0) + 200902)
    elif times == "text":
        stamps = (np.array(["2009", "2010", "2009", "2011", "2012"], object), np.array(["2010", "2011"], object))
    found = read_dbstruct(_written(tmp_path / "a.mat", order=order, cells=cells, times=stamps, which_set="val"))
    assert (found.database, found.queries, found.which_set) == (DATABASE, QUERIES, "val")
    expected = np.arange(14.0).reshape(7, 2) + 584000.125
    assert found.database_positions.tolist() == expected[:5].tolist()
    assert found.query_positions.tolist() == expected[5:].tolist()
    assert found.database_positions.dtype == np.float64
    assert (found.positive_threshold, found.nontrivial_threshold) == (25.0, 10.0)
    for read, given_times in zip((found.database_times, found.query_times), stamps or (None, None), strict=True):
        assert (read is None) if given_times is None else (read.tolist() == given_times.tolist())


def test_compressed_files_and_equal_bytes(tmp_path):
    one, other = _written(tmp_path / "a.mat"), _written(tmp_path / "b.mat")
    assert one.read_bytes() == other.read_bytes()
    savemat(other, {"dbStruct": loadmat(one)["dbStruct"], "unrelated": 3}, do_compression=True)
    assert read_dbstruct(other).database == DATABASE


@settings(deadline=None, max_examples=20)
@given(data=st.data(), n=st.integers(1, 6), q=st.integers(1, 4), rows=st.sampled_from([1, 2]))
def test_any_lists_survive(tmp_path_factory, data, n, q, rows):
    name = st.text("ab/_.0", min_size=1, max_size=12).map(lambda text: f"x{text}.jpg")
    metres = st.floats(-1e7, 1e7)
    names = [data.draw(st.lists(name, min_size=k, max_size=k)) for k in (n, q)]
    places = [np.array(data.draw(st.lists(metres, min_size=k * rows, max_size=k * rows))) for k in (n, q)]
    path = tmp_path_factory.mktemp("any") / "a.mat"
    write_struct(path, *names, *(place.reshape(-1, rows) for place in places), cells="row")
    found = read_dbstruct(path)
    assert [found.database, found.queries] == names
    assert found.frame_numbers == (rows == 1)
    for read, place in zip((found.database_positions, found.query_positions), places, strict=True):
        assert np.array_equal(read[:, :rows].ravel(), place)
        assert rows == 2 or not read[:, 1].any()


NOT_FINITE = np.array([[1.0, 2.0, np.nan, 4.0, np.inf], [1.0, 2.0, 3.0, 4.0, np.inf]])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        *(({name: None}, f"dbStruct has no field {name}") for name in ("whichSet", "dbImageFns", "utmQ", "numImages")),
        ({"posDistThr": None}, "dbStruct has no field posDistThr"),
        ({"nonTrivPosDistSqThr": None}, "dbStruct has no field nonTrivPosDistSqThr"),
        ({"numImages": 6.0}, "dbImageFns holds 5 names but numImages is 6"),
        ({"numQueries": 1.0}, "qImageFns holds 2 names but numQueries is 1"),
        ({"numQueries": np.array([2.0, 2.0])}, "numQueries must be one number"),
        ({"utmDb": NOT_FINITE}, "utmDb holds 2 of 5 positions that are not finite"),
        ({"utmDb": np.ones((5, 2))}, r"utmDb has shape \(5, 2\), expected \(2, 5\)"),
        ({"utmQ": np.ones((1, 2))}, r"utmDb has 2 row\(s\) but utmQ has 1"),
        ({"utmDb": "metres"}, "utmDb must hold real numbers"),
        ({"utmDb": np.ones((2, 5)) * 1j}, "utmDb must hold real numbers"),
        ({"posDistThr": -1.0}, "posDistThr must be one number, not negative"),
        ({"nonTrivPosDistSqThr": np.nan}, "nonTrivPosDistSqThr must be one number"),
        ({"dbImageFns": np.ones((5, 1))}, "dbImageFns must be a cell array of text"),
        ({"dbImageFns": np.array([["a", "b"], ["c", "d"]], object)}, "dbImageFns must be a cell array of text, N x 1"),
        ({"qImageFns": np.array([["a"], [7.0]], object)}, "qImageFns holds an entry that is not text"),
        ({"qImageFns": np.array([["a"], [""]], object)}, "qImageFns holds an entry that is not text, or empty"),
        ({"dbTimeStamp": np.ones((1, 4))}, "dbTimeStamp must hold one time stamp for each of 5 images"),
        ({"qTimeStamp": np.array([[1.0, np.nan]])}, "qTimeStamp must hold one time stamp for each of 2 images"),
    ],
)
def test_bad_fields_are_named_in_one_line(tmp_path, changes, said):
    path = _written(tmp_path / "pitts30k_val.mat")
    fields = {**_fields(path), **changes}
    save_struct(path, {name: value for name, value in fields.items() if value is not None})
    with pytest.raises(UserError, match=said) as caught:
        read_dbstruct(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_of_other_kinds_are_refused(tmp_path):
    path = tmp_path / "a.mat"
    with pytest.raises(UserError, match=r"a\.mat does not exist: check --dataset_folder"):
        read_dbstruct(path)
    header = b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(116) + packing.pack("<QHH", 0, 0x0200, 0x4D49)
    signature = b"\x89HDF\r\n\x1a\n"
    for content in (header, bytes(512) + signature, header.ljust(512, b"\0") + signature, signature + bytes(600)):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"is a MATLAB v7\.3 \(HDF5\) file: save it again"):
            read_dbstruct(path)
    for content in (b"", b"PK\x03\x04" + bytes(40), b"no MATLAB file " * 50):
        path.write_bytes(content)
        with pytest.raises(UserError, match="cannot be read as a MATLAB file"):
            read_dbstruct(path)
    savemat(path, {"posDistThr": 25.0, "dbStruct": 3.0})
    with pytest.raises(UserError, match="holds posDistThr, dbStruct, but no struct named dbStruct"):
        read_dbstruct(path)


def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path):
    path = _written(tmp_path / "a.mat")
    whole = path.read_bytes()
    for length in range(0, len(whole), 41):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"a\.mat"):
            read_dbstruct(path)


def test_a_file_that_would_expand_without_end_is_refused(tmp_path):
    savemat(tmp_path / "a.mat", {"dbStruct": np.zeros(40 << 20, dtype=np.uint8)}, do_compression=True)
    assert (tmp_path / "a.mat").stat().st_size < 1 << 17
    with pytest.raises(UserError, match="would expand to more than"):
        read_dbstruct(tmp_path / "a.mat")


@pytest.mark.parametrize("compressed", [False, True])
def test_a_changed_byte_is_read_or_one_line_and_never_a_crash(tmp_path, compressed):
    """SciPy looks up the kind of numbers in a table without asking whether it is there."""
    path = tmp_path / "a.mat"
    struct = {"dbImageFns": np.array([["a.jpg"], ["b.jpg"]], dtype=object), "utmDb": np.arange(4.0).reshape(2, 2)}
    savemat(path, {"dbStruct": struct}, do_compression=compressed)
    require_sound_mat(path.read_bytes(), path)
    content = path.read_bytes()
    kinds = [at for at in range(128, len(content) - 8, 8) if content[at : at + 4] == (9).to_bytes(4, "little")]
    assert kinds or compressed
    for at in kinds:
        with pytest.raises(UserError, match=r"unknown kind 200|of the kind 200"):
            require_sound_mat(content[:at] + b"\xc8" + content[at + 1 :], path)
    draw = random.Random(3)
    for _ in range(300):
        broken = bytearray(content)
        broken[draw.randrange(128, len(broken))] = draw.randrange(256)
        with contextlib.suppress(UserError):
            require_sound_mat(bytes(broken), path)


def test_every_kind_of_variable_is_sound(tmp_path):
    from scipy.sparse import csc_matrix

    content = {
        "numbers": np.arange(3, dtype=np.int16),
        "complex": np.array([1 + 2j]),
        "text": "ä text",
        "texts": np.array(["a", "bcd"]),
        "logical": np.array([True]),
        "sparse": csc_matrix(np.eye(3)),
        "cells": np.array([[1], [np.zeros((0, 0))], ["x"]], dtype=object),
        "nested": {"inner": {"deep": [1, 2]}},
        "empty": np.zeros((0, 3)),
    }
    for compressed in (False, True):
        savemat(tmp_path / "a.mat", {**content, "dbStruct": 3}, do_compression=compressed)
        require_sound_mat((tmp_path / "a.mat").read_bytes(), tmp_path / "a.mat")
