"""The pickle interpreter: reads what Python's own writes, runs nothing, and believes no number in a file."""

import argparse
import collections
import pickle
import pickletools
import resource
import struct
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distilplace.common.pickles.plain_classes import PLAIN
from distilplace.common.pickles.reader import Foreign, ForeignClassError, PickleError, read_pickle

LEAVES = st.one_of(
    *(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(), st.binary(max_size=300))
)
KEYS = st.one_of(st.text(max_size=5), st.integers(-(2**40), 2**40), st.tuples(st.integers(0, 9), st.text(max_size=2)))
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=5),
        st.dictionaries(KEYS, inner, max_size=5),
        st.tuples(inner, inner),
        st.sets(KEYS, max_size=3),
    ),
    max_leaves=20,
)


def read(content, **more):
    value, end = read_pickle(content, PLAIN, **more)
    assert end == len(content)
    return value


@settings(max_examples=150, deadline=None)
@given(value=VALUES, protocol=st.integers(0, 5), python_written=st.booleans())
def test_reads_what_pickle_writes(value, protocol, python_written):
    dump = pickle._dumps if python_written else pickle.dumps
    try:
        content = dump(value, protocol=protocol)
    except UnicodeEncodeError:
        return
    if protocol < 3 and b"_codecs" not in content and b"bytes" in content:
        return
    if protocol == 0 and b"copy_reg" in content:
        return
    assert read(content) == value


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("count", [3, 300, 70000])
def test_runs_of_numbers_of_all_sizes(protocol, count):
    numbers = [*range(-5, count), 2**31 - 1, -(2**31), 2**31, 255, 256, 65535, 65536]
    assert read(pickle.dumps(numbers, protocol=protocol)) == numbers
    assert read(pickle.dumps(numbers[-1], protocol=protocol)) == 65536


def test_every_truncation_is_refused():
    content = pickle.dumps({"a": [1, 300, 70000, "text"], "b": (1.5, None, {2, 3})}, protocol=4)
    for length in range(len(content)):
        with pytest.raises(PickleError):
            read_pickle(content[:length], PLAIN)


def test_shared_and_cyclic_objects_stay_shared():
    part = [1]
    found = read(pickle.dumps({"one": part, "other": part}))
    assert found["one"] is found["other"]
    cycle: list = []
    cycle.append(cycle)
    found = read(pickle.dumps(cycle))
    assert found[0] is found


def test_foreign_objects_keep_their_name_alone():
    content = {
        "options": argparse.Namespace(lr=0.1, parts=[1, 2]),
        "kept": 7,
        "counter": collections.Counter("aab"),
        "range": range(3),
    }
    for protocol in range(6):
        found = read(pickle.dumps(content, protocol=protocol), keep_foreign=True)
        assert found["kept"] == 7
        assert isinstance(found["options"], Foreign)
        if protocol >= 2:
            assert found["options"].name == "argparse.Namespace"
            assert found["counter"].name == "collections.Counter"
        with pytest.raises(ForeignClassError):
            read(pickle.dumps(content, protocol=protocol))


def long_put(index):
    return b"\x80\x02Nr" + struct.pack("<I", index) + b"."


TUPLES = b"K\x01" + b"2\x86" * 60
HOSTILE = {
    "memo index": (long_put(2**32 - 1), None),
    "memo index, text": (b"Np99999999999\n.", None),
    "bytes8": (b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b".", PickleError),
    "bytearray8": (b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b".", PickleError),
    "unicode8": (b"\x80\x04\x8d" + struct.pack("<Q", 2**63) + b".", PickleError),
    "string": (b"T\xff\xff\xff\x7f.", PickleError),
    "long4": (b"\x80\x02\x8b\xff\xff\xff\x7f.", PickleError),
    "frame": (b"\x80\x04\x95" + struct.pack("<Q", 2**61) + b"N.", PickleError),
    "digits": (b"I" + b"9" * 10**6 + b"\n.", PickleError),
    "hash of nested tuples": (b"}" + TUPLES + b"Ns.", PickleError),
    "set of nested tuples": (b"\x80\x04\x8f(" + TUPLES + b"\x90.", PickleError),
    "frozenset of nested tuples": (b"\x80\x04(" + TUPLES + b"\x91.", PickleError),
    "ordered dict of nested tuples": (b"ccollections\nOrderedDict\n(((" + TUPLES + b"Ntlt\x85R.", None),
    "text of a nested list": (b"cbuiltins\nstr\n(" + b"]" + b"(2l" * 60 + b"tR.", PickleError),
    "bytes of a length": (b"cbuiltins\nbytes\nJ\xff\xff\xff\x7f\x85R.", TypeError),
    "array of a length": (b"cnumpy\nndarray\nJ\xff\xff\xff\x7f\x85\x85R.", None),
    "deep list": (b"]" * 200_000 + b"a" * 199_999 + b".", None),
    "deep marks": (b"(" * 200_000 + b"l" * 200_000 + b".", None),
    "empty stack": (b"0.", PickleError),
    "extension": (b"\x82\x01.", PickleError),
    "outside buffer": (b"\x97.", PickleError),
    "persistent id": (b"Pabc\n.", PickleError),
    "call of a number": (b"K\x01)R.", PickleError),
    "state of a number": (b"K\x01}b.", PickleError),
    "state of a class": (b"cnumpy\ndtype\n}b.", PickleError),
    "class without a name": (b"\x80\x04K\x01K\x02\x93.", PickleError),
    "os.system": (b"cposix\nsystem\n(S'touch ran'\ntR.", ForeignClassError),
    "instance": (b"(S'touch ran'\niposix\nsystem\n.", ForeignClassError),
    "object": (b"(cposix\nsystem\nS'touch ran'\no.", ForeignClassError),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickles_take_no_memory_no_time_and_run_nothing(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content, error = HOSTILE[name]
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    for keep_foreign in (False, True):
        try:
            value = read_pickle(content, PLAIN, keep_foreign=keep_foreign).value
        except (ValueError, TypeError):
            continue
        else:
            assert error in (None, ForeignClassError)
            assert error is None or isinstance(value, Foreign)
            del value
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 60_000  # KiB
    assert time.process_time() - start < 5
    assert not (tmp_path / "ran").exists()


def test_python_s_own_reader_would_have_taken_the_memory():
    """The nine bytes in question: a memo index as a length."""
    opcodes = [opcode.name for opcode, _, _ in pickletools.genops(long_put(2**27))]
    assert opcodes == ["PROTO", "NONE", "LONG_BINPUT", "STOP"]
    assert len(long_put(2**27)) == 9


@settings(max_examples=200, deadline=None)
@given(position=st.floats(0, 0.9999), value=st.integers(0, 255), protocol=st.integers(0, 5))
def test_any_changed_byte_reads_or_is_an_ordinary_error(position, value, protocol):
    content = bytearray(
        pickle.dumps({"a": [1, 2.5, "b"], 3: np.arange(3), "c": np.float64(1), "d": (b"x", {4})}, protocol=protocol)
    )
    content[int(position * len(content))] = value
    for keep_foreign in (False, True):
        try:
            read_pickle(bytes(content), PLAIN, keep_foreign=keep_foreign)
        except (ValueError, TypeError, IndexError, AttributeError, OverflowError):
            continue
