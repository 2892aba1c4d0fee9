"""The restricted unpickler: what it admits, what it refuses, and that nothing a file names is run."""

import collections
import contextlib
import io
import os
import pickle
import resource
import sys
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from distilplace.common.errors import UserError
from distilplace.datasets.io.pickles import TrainingTuple, load_pickle


@contextmanager
def class_named(module: str, name: str = "TrainingTuple"):
    """A class that pickles under ``module.name``."""
    kind = type(name, (), {"__module__": module})
    stand_in, before = ModuleType(module), sys.modules.get(module)
    setattr(stand_in, name, kind)
    sys.modules[module] = stand_in
    try:
        yield kind
    finally:
        del sys.modules[module]
        if before is not None:
            sys.modules[module] = before


def save(path: Path, content: object, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


def filled(kind: type, **attributes: object) -> object:
    item = kind()
    for name, value in attributes.items():
        setattr(item, name, value)
    return item


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("module", ["datasets.oxford", "datasets.base_datasets"])
def test_training_tuples_of_both_class_paths_are_remapped(tmp_path, module, protocol):
    position = np.array([5735712.25, 620084.5], dtype=object)
    with class_named(module) as kind:
        item = filled(
            kind,
            id=0,
            timestamp=1415985057262127,
            rel_scan_filepath="oxford/r/p/1.bin",
            positives=np.array([1, 2]),
            non_negatives=np.array([0, 1, 2]),
            position=position,
            something_else="ignored",
        )
        path = save(tmp_path / "t.pickle", {0: item}, protocol)
    (read,) = load_pickle(path).values()
    assert type(read) is TrainingTuple
    assert read.timestamp == 1415985057262127
    np.testing.assert_array_equal(read.positives, [1, 2])
    assert type(read.positives) is np.ndarray
    assert read.positives.dtype == np.int64
    np.testing.assert_array_equal(read.position.astype(np.float64), [5735712.25, 620084.5])
    assert not hasattr(read, "something_else")


def test_egonn_tuple_keeps_pose_and_poses_of_positives(tmp_path):
    pose, relative = np.eye(4), {3: np.arange(16.0).reshape(4, 4)}
    with class_named("datasets.base_datasets") as kind:
        path = save(tmp_path / "t.pickle", [filled(kind, id=0, pose=pose, positives_poses=relative)])
    (read,) = load_pickle(path)
    np.testing.assert_array_equal(read.pose, pose)
    np.testing.assert_array_equal(read.positives_poses[3], relative[3])


ARRAYS = [
    np.arange(6, dtype="<i8").reshape(2, 3),
    np.arange(6, dtype=">f4").reshape(2, 3),
    np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    np.array([True, False]),
    np.array(["ab", "c"]),
    np.array(7.5),
    np.empty((0, 3), dtype=np.float32),
    np.array([[1, 2.5], [None, "x"]], dtype=object),
]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("array", ARRAYS, ids=lambda a: f"{a.dtype}{a.shape}")
def test_arrays_survive_in_every_protocol(tmp_path, array, protocol):
    shared = [array, array]
    read = load_pickle(save(tmp_path / "a.pickle", {"list": shared, "tuple": (array,), "again": shared}, protocol))
    for copy in (*read["list"], *read["tuple"], *read["again"]):
        assert type(copy) is np.ndarray
        assert copy.dtype == array.dtype
        np.testing.assert_array_equal(copy, array)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_scalars_and_containers_become_plain_python(tmp_path, protocol):
    content = {
        "ordered": collections.OrderedDict(a=np.int64(2**60)),
        "default": collections.defaultdict(list, b=[np.float32(0.5)]),
        "set": {1, 2},
        "bytes": b"\xff\x00",
        "none": None,
    }
    read = load_pickle(save(tmp_path / "c.pickle", content, protocol))
    assert read == content
    assert type(read["ordered"]["a"]) is int
    assert type(read["default"]["b"][0]) is float


@pytest.mark.parametrize(("old", "new"), [(b"numpy._core.", b"numpy.core."), (b"numpy.core.", b"numpy._core.")])
def test_numpy_1_and_2_names_read_alike(tmp_path, old, new):
    array = np.arange(4)
    content = pickle.dumps([array, np.int64(5)], protocol=3)
    if old not in content:
        old, new = new, old
    renamed = content.replace(old, new)
    # c<module>\n<name>\n in protocol 3: a name of another length needs no other change
    assert renamed != content
    (tmp_path / "n.pickle").write_bytes(renamed)
    read = load_pickle(tmp_path / "n.pickle")
    np.testing.assert_array_equal(read[0], array)
    assert read[1] == 5


class Foreign:
    """A class of this module."""


def runs(function, *args):
    class Payload:
        def __reduce__(self):
            return function, args

    return Payload()


FOREIGN = {
    "posix.system": lambda marker: runs(os.system, f"touch {marker}"),
    "builtins.eval": lambda marker: runs(eval, f"open({str(marker)!r}, 'w')"),
    "builtins.getattr": lambda marker: runs(getattr, [], "append"),
    "Foreign": lambda marker: Foreign(),
    "numpy.load": lambda marker: runs(np.load, str(marker)),
    "builtins.bytearray": lambda marker: runs(bytearray, 10**12),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_foreign_class_is_named_and_not_run(tmp_path, name):
    marker = tmp_path / "marker"
    path = save(tmp_path / "bad.pickle", [1, FOREIGN[name](marker)])
    with pytest.raises(UserError, match=name.replace(".", r"\.")) as caught:
        load_pickle(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not marker.exists()


def test_tuple_class_of_another_module_is_refused(tmp_path):
    with class_named("elsewhere") as kind:
        path = save(tmp_path / "t.pickle", {0: filled(kind, id=0)})
    with pytest.raises(UserError, match=r"elsewhere\.TrainingTuple"):
        load_pickle(path)


def build_on(module: str, name: str, state: object) -> bytes:
    """A pickle that applies BUILD to a global itself instead of to an object."""
    body = pickle.dumps(state, protocol=3)[2:-1]
    return b"\x80\x03c" + f"{module}\n{name}\n".encode() + body + b"b."


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("numpy", "dtype"),
        ("numpy.core.multiarray", "scalar"),
        ("datasets.oxford", "TrainingTuple"),
        ("builtins", "list"),
    ],
)
@pytest.mark.parametrize("state", [{"__call__": 1, "id": 2}, (None, {"_call": 1, "__init__": 2, "__slots__": 3})])
def test_build_cannot_alter_what_the_reader_hands_out(tmp_path, module, name, state):
    path = tmp_path / "b.pickle"
    path.write_bytes(build_on(module, name, state))
    before = dict(vars(TrainingTuple))
    with pytest.raises(UserError, match="not a readable pickle"):
        load_pickle(path)
    assert dict(vars(TrainingTuple)) == before
    assert load_pickle(save(tmp_path / "ok.pickle", [np.arange(3), np.float64(1)]))[1] == 1.0


def test_structured_dtype_is_refused(tmp_path):
    path = save(tmp_path / "s.pickle", np.zeros(2, dtype=[("a", "f4"), ("b", "O")]))
    with pytest.raises(UserError, match="dtype"):
        load_pickle(path)


def test_forged_object_array_over_raw_bytes_is_refused(tmp_path):
    """Bytes read as object pointers would crash the process."""
    content = pickle.dumps(np.arange(2), protocol=3).replace(b"i8", b"O8")
    assert b"O8" in content
    (tmp_path / "o.pickle").write_bytes(content)
    with pytest.raises(UserError, match="object array"):
        load_pickle(tmp_path / "o.pickle")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not a pickle at all",
        pickle.dumps(list(range(1000)))[:-40],
        b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f",
    ],
    ids=["empty", "text", "truncated", "huge frame"],
)
def test_broken_file_gives_one_line(tmp_path, content):
    path = tmp_path / "broken.pickle"
    path.write_bytes(content)
    with pytest.raises(UserError, match="not a readable pickle") as caught:
        load_pickle(path)
    assert str(path) in str(caught.value)


def test_missing_file_and_folder(tmp_path):
    for path in (tmp_path / "absent.pickle", tmp_path):
        with pytest.raises(UserError, match=str(path)):
            load_pickle(path)


def test_wide_and_cyclic_structures_end(tmp_path):
    wide: list = []
    for _ in range(10):
        wide = [wide] * 1000
    cycle: list = []
    cycle.append(cycle)
    assert len(load_pickle(save(tmp_path / "wide.pickle", wide))) == 1000
    assert len(load_pickle(save(tmp_path / "cycle.pickle", cycle))) == 1
    deep: list = []
    for _ in range(100):
        deep = [deep]
    with pytest.raises(UserError, match="deep"):
        load_pickle(save(tmp_path / "deep.pickle", deep))


def test_persistent_ids_are_refused(tmp_path):
    class Pickler(pickle.Pickler):
        def persistent_id(self, obj):
            return "x" if obj == "y" else None

    buffer = io.BytesIO()
    Pickler(buffer).dump(["y"])
    (tmp_path / "p.pickle").write_bytes(buffer.getvalue())
    with pytest.raises(UserError):
        load_pickle(tmp_path / "p.pickle")


def test_real_pointnetvlad_pickles(real_data):
    folder = real_data("pointnetvlad_pickles")
    database = load_pickle(folder / "oxford_evaluation_database.pickle")
    queries = load_pickle(folder / "oxford_evaluation_query.pickle")
    assert (len(database), len(queries)) == (23, 23)
    assert (sum(map(len, database)), sum(map(len, queries))) == (9492, 3030)
    assert len(load_pickle(folder / "gpr_training_queries_baseline.pickle")) == 2510


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x02Nr" + (2**26).to_bytes(4, "little") + b".",  # a memo index: 1 GB for Python's own reader
        b"\x80\x04\x8e" + (2**40).to_bytes(8, "little") + b".",
        b"\x80\x02\x8b" + (2**31 - 1).to_bytes(4, "little") + b".",
    ],
    ids=["memo index", "bytes", "number"],
)
def test_a_number_in_a_pickle_reserves_no_memory(tmp_path, content):
    (tmp_path / "a.pickle").write_bytes(content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with contextlib.suppress(UserError):
        assert load_pickle(tmp_path / "a.pickle") is None
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB


def test_several_pickles_in_a_row_are_refused(tmp_path):
    (tmp_path / "a.pickle").write_bytes(pickle.dumps([1]) + pickle.dumps([2]))
    with pytest.raises(UserError, match="bytes follow its end"):
        load_pickle(tmp_path / "a.pickle")
