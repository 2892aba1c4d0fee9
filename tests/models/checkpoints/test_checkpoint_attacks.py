"""Weights files made to do harm or to exhaust the machine: one line, nothing run, no memory taken."""

import io
import os
import pickle
import resource
import struct
import time
import zipfile

import pytest
import torch

from distilplace.common.errors import UserError
from distilplace.models.checkpoints import read_state
from distilplace.models.checkpoints.torch_files import MAGIC

STORAGE = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\0%sX\x03\0\0\0cpu"
REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"


def archive(pickled, path, storages=(), compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as target:
        target.writestr("archive/data.pkl", pickled)
        for name, content in storages:
            target.writestr(f"archive/data/{name}", content)


def tensor(key=b"0", numel=b"K\x04", offset=b"K\0", shape=b"K\x04\x85", stride=b"K\x01\x85"):
    """The pickle of {"w": tensor}, its numbers as opcodes."""
    pid = (STORAGE % key) + numel + b"tQ"
    return b"\x80\x02}X\x01\0\0\0w" + REBUILD + b"(" + pid + offset + shape + stride + b"\x89}tRs."


HUGE = b"\x8a\x08" + struct.pack("<q", 10**12)
FOUR = [("0", struct.pack("<4f", 1, 2, 3, 4))]
TENSORS = {
    "storage larger than the file": (tensor(numel=HUGE), FOUR),
    "shape larger than its storage": (tensor(shape=HUGE + b"\x85"), FOUR),
    "expanded to a terabyte": (tensor(shape=HUGE + b"\x85", stride=b"K\0\x85"), FOUR),
    "empty in a huge way": (tensor(shape=HUGE + b"K\0\x86", stride=b"K\x01K\x01\x86"), FOUR),
    "offset behind its storage": (tensor(offset=b"K\x09"), FOUR),
    "negative offset": (tensor(offset=b"J\xff\xff\xff\xff"), FOUR),
    "negative stride": (tensor(stride=b"J\xff\xff\xff\xff\x85"), FOUR),
    "negative length": (tensor(shape=b"J\xff\xff\xff\xff\x85"), FOUR),
    "length that is a text": (tensor(shape=b"X\x01\0\0\0a\x85"), FOUR),
    "storage elsewhere": (tensor(key=b"/"), FOUR),
    "absent storage": (tensor(key=b"1"), FOUR),
    "short storage": (tensor(), [("0", bytes(8))]),
    "storage that is no storage": (b"\x80\x02}X\x01\0\0\0w" + REBUILD + b"(K\x01K\0)))}tRs.", FOUR),
    "tensor of nothing": (b"\x80\x02}X\x01\0\0\0w" + REBUILD + b")Rs.", FOUR),
    "a list as persistent id": (b"\x80\x02}X\x01\0\0\0w]Qs.", FOUR),
    "another kind of persistent id": (
        b"\x80\x02}X\x01\0\0\0w(X\x04\0\0\0fileX\x01\0\0\0a" + b"K\0" * 3 + b"tQs.",
        FOUR,
    ),
    "memo index": (b"\x80\x02Nr\xff\xff\xff\xff.", FOUR),
    "memo index of 1 GB": (b"\x80\x02Nr" + struct.pack("<I", 2**27) + b".", FOUR),
    "a text of 4 GB": (b"\x80\x02X\xff\xff\xff\xff.", FOUR),
    "a number of 2 GB": (b"\x80\x02\x8b\xff\xff\xff\x7f.", FOUR),
    "a frame": (b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b"}.", FOUR),
    "nested": (b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".", FOUR),
    "hash of nested tuples": (b"\x80\x02}K\x01" + b"2\x86" * 64 + b"Ns.", FOUR),
}


@pytest.fixture
def watched(tmp_path, monkeypatch):
    """Whatever is done in the test: in its own folder, in little time and memory, and nothing was run."""
    monkeypatch.chdir(tmp_path)
    memory, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    yield tmp_path
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 150_000  # KiB
    assert time.process_time() - start < 5
    assert not (tmp_path / "ran").exists()


def refused(path, match="weights file"):
    with pytest.raises(UserError, match=match) as caught:
        read_state(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", TENSORS)
def test_what_a_pickle_claims_is_compared_with_the_file(watched, name):
    pickled, storages = TENSORS[name]
    archive(pickled, watched / "a.pth", storages)
    refused(watched / "a.pth")
    (watched / "bare.pkl").write_bytes(pickled)
    refused(watched / "bare.pkl")


def test_the_forged_archive_is_one_when_it_is_honest(watched):
    archive(tensor(), watched / "a.pth", FOUR)
    assert torch.equal(read_state(watched / "a.pth")["w"], torch.tensor([1.0, 2, 3, 4]))


class Runs:
    """Calls ``function`` when it is unpickled."""

    def __init__(self, function, *arguments, state=None):
        self.reduced = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.reduced


def chained():
    return Runs(getattr, Runs(__import__, "os"), "system")


HARM = {
    "os.system": lambda: Runs(os.system, "touch ran"),
    "os.mkdir": lambda: Runs(os.mkdir, "ran"),
    "builtins.eval": lambda: Runs(eval, "open('ran', 'w')"),
    "builtins.exec": lambda: Runs(exec, "open('ran', 'w')"),
    "builtins.open": lambda: Runs(open, "ran", "w"),
    "getattr of a module": chained,
    "in a state": lambda: Runs(dict, state={"x": Runs(os.system, "touch ran")}),
}


@pytest.mark.parametrize("name", HARM)
@pytest.mark.parametrize("legacy", [False, True])
def test_what_would_run_is_refused_even_beside_good_tensors(watched, name, legacy):
    content = {"state_dict": {"w": torch.ones(3)}, "more": HARM[name]()}
    torch.save(content, watched / "a.pth", _use_new_zipfile_serialization=not legacy)
    refused(watched / "a.pth", "could run foreign code")
    (watched / "bare.pkl").write_bytes(pickle.dumps(content["more"]))
    refused(watched / "bare.pkl", "could run foreign code")


@pytest.mark.parametrize(
    "opcodes",
    [
        b"ctorch.serialization\nos.system\nX\x09\0\0\0touch ran\x85R",
        b"(X\x09\0\0\0touch ranios\nsystem\n",
        b"(cos\nsystem\nX\x09\0\0\0touch rano",
        b"csubprocess\nPopen\nX\x09\0\0\0touch ran\x85\x81",
        b"cimportlib\nimport_module\nX\x02\0\0\0os\x85R",
        b"cnumpy\nload\nX\x03\0\0\0ran\x85R",
        b"ctorch.hub\nload\nX\x03\0\0\0ran\x85R",
        b"ctorch\nload\nX\x03\0\0\0ran\x85R",
    ],
)
def test_nothing_that_a_pickle_names_is_called(watched, opcodes):
    (watched / "a.pkl").write_bytes(b"\x80\x04" + opcodes + b".")
    refused(watched / "a.pkl", "could run foreign code")


def test_calls_that_do_no_harm_are_not_made_either(watched):
    content = {"state_dict": {"w": torch.ones(3)}, "method": Runs(getattr, Runs(complex, 1.0, 2.0), "conjugate")}
    torch.save(content, watched / "a.pth")
    assert torch.equal(read_state(watched / "a.pth")["w"], torch.ones(3))


def test_an_archive_that_expands_is_refused(watched):
    archive(tensor(numel=b"J\0\0\0\x10"), watched / "a.pth", [("0", bytes(1 << 28))], zipfile.ZIP_DEFLATED)
    assert (watched / "a.pth").stat().st_size < 1 << 20
    refused(watched / "a.pth", "damaged")


def test_entries_that_share_their_bytes_give_no_more_than_the_file_has(watched):
    """Two names in the directory for one stretch of the file: their headers tell."""
    size = 1 << 20
    path = watched / "a.pth"
    state = {f"w{number}": torch.zeros(size // 4) for number in range(2)}
    torch.save(state, path)
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as target:
        first, second = (target.getinfo(f"a/data/{number}") for number in range(2))
    directory = content.rindex(b"PK\x01\x02", 0, content.rindex(b"a/data/1"))
    content[directory + 42 : directory + 46] = struct.pack("<I", first.header_offset)
    assert second.header_offset != first.header_offset
    path.write_bytes(bytes(content))
    refused(path, "damaged")


def older(pickled, keys, tail):
    head = [MAGIC, 1001, {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}]
    parts = [pickle.dumps(part, protocol=2) for part in head]
    return b"".join([*parts, pickled, pickle.dumps(keys, protocol=2), tail])


def test_the_older_format_claims_no_more_either(watched):
    honest = older(tensor().replace(b"K\x04tQ", b"K\x04NtQ"), ["0"], struct.pack("<q4f", 4, 1, 2, 3, 4))
    path = watched / "a.pth"
    path.write_bytes(honest)
    assert torch.equal(read_state(path)["w"], torch.tensor([1.0, 2, 3, 4]))
    for broken in (
        older(tensor(numel=HUGE).replace(b"tQ", b"NtQ"), ["0"], struct.pack("<q4f", 10**12, 1, 2, 3, 4)),
        older(tensor().replace(b"K\x04tQ", b"K\x04NtQ"), ["0"], struct.pack("<q4f", -1, 1, 2, 3, 4)),
        older(tensor().replace(b"K\x04tQ", b"K\x04NtQ"), [], b""),
        older(tensor().replace(b"K\x04tQ", b"K\x04NtQ"), ["0", "0"], struct.pack("<q4f", 4, 1, 2, 3, 4)),
        honest + b"more",
        honest[:-1],
    ):
        path.write_bytes(broken)
        refused(path, "damaged")


@pytest.mark.parametrize("start", range(4))
def test_a_flipped_bit_in_a_zip_is_noticed_wherever_it_changes_a_number(watched, start):
    path, state = watched / "a.pth", {"weight": torch.arange(20.0), "count": torch.tensor(7)}
    torch.save(state, path)
    content = path.read_bytes()
    noticed = 0
    for position in range(start, 8 * len(content), 44):
        broken = bytearray(content)
        broken[position // 8] ^= 1 << position % 8
        path.write_bytes(broken)
        try:
            found = read_state(path)
        except UserError:
            noticed += 1
        else:
            assert set(found) == set(state)
            assert all(torch.equal(found[key], value) for key, value in state.items())
    assert noticed > 20


@pytest.mark.parametrize(
    ("content", "told"),
    [
        *[
            (page, "a web page")
            for page in (b"<!DOCTYPE html><html>", b"\xef\xbb\xbf\r\n <!doctype HTML>", b"<HTML lang=en>")
        ],
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "Git LFS pointer"),
        (b"\x1f\x8b\x08" + bytes(50), "gzip"),
        (bytes(257) + b"ustar" + bytes(250), "tar archive"),
        (b"", "it is empty"),
    ],
)
def test_common_mistakes_are_named(watched, content, told):
    (watched / "a.pth").write_bytes(content)
    refused(watched / "a.pth", told)


def test_a_web_page_called_safetensors_is_named(watched):
    (watched / "a.safetensors").write_bytes(b"<HTML><head>")
    refused(watched / "a.safetensors", "a web page")


def test_other_zip_archives_pipes_and_folders(watched):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as target:
        target.writestr("readme.txt", "x")
    (watched / "a.pth").write_bytes(buffer.getvalue())
    refused(watched / "a.pth", "zip archive that torch.save did not write")
    os.mkfifo(watched / "pipe.pth")
    refused(watched / "pipe.pth", "no regular file")
