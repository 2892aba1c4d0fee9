"""Our tensor files: what was written comes back, and any flipped bit is noticed."""

import os
import struct
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from distilplace.common.errors import UserError
from distilplace.common.tensor_files import HASH, content_hash, read_tensors, write_tensors

TENSORS = {
    "weight": torch.arange(6.0).reshape(2, 3),
    "count": torch.tensor(7),
    "half": torch.ones(3, dtype=torch.bfloat16),
    "none": torch.zeros(0, 4),
}
TEXT = {"made_from": "a" * 64, "facts": '{"size": 224}'}


def test_what_is_written_comes_back(tmp_path):
    write_tensors(tmp_path / "a.safetensors", {**TENSORS, "turned": torch.arange(6.0).reshape(2, 3).T}, TEXT)
    tensors, metadata = read_tensors(tmp_path / "a.safetensors")
    assert metadata == TEXT
    for name, value in TENSORS.items():
        assert torch.equal(tensors[name], value)
        assert tensors[name].dtype == value.dtype
    assert torch.equal(tensors["turned"], torch.arange(6.0).reshape(2, 3).T)


def test_the_same_content_gives_the_same_bytes(tmp_path):
    path, text = tmp_path / "a.safetensors", {**TEXT, "place": 'K\u00f6ln \U0001f697 "a"\n\x01\x7f\\'}
    written = set()
    for turn in range(8):
        write_tensors(path, TENSORS, dict(list(text.items())[:: 1 if turn % 2 else -1]))
        written.add(path.read_bytes())
    assert len(written) == 1
    assert read_tensors(path).metadata == text


@pytest.mark.slow  # three processes with torch: 10 s
def test_other_processes_write_the_same_bytes(root, tmp_path):
    program = "import sys, torch\nfrom distilplace.common.tensor_files import write_tensors\n"
    program += "text = {name: name for name in {'pt', 'card', 'facts', 'scores'}}\n"  # a set: of random order
    program += "write_tensors(sys.argv[1], {'b': torch.arange(6.0), 'a': torch.ones(2)}, text)"
    for seed in ("0", "1", "2"):
        command = [sys.executable, "-c", program, str(tmp_path / f"{seed}.safetensors")]
        subprocess.run(command, cwd=root, env={**os.environ, "PYTHONHASHSEED": seed}, check=True)
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


def test_a_flipped_bit_anywhere_is_noticed(tmp_path):
    path = tmp_path / "a.safetensors"
    write_tensors(path, TENSORS, TEXT)
    content = path.read_bytes()
    for position in range(0, 8 * len(content), 3):
        broken = bytearray(content)
        broken[position // 8] ^= 1 << position % 8
        path.write_bytes(broken)
        with pytest.raises(UserError, match="damaged"):
            read_tensors(path)


def test_files_of_another_origin_have_no_hash_and_are_read(tmp_path):
    for text in (None, {"format": "pt", "sha256": "9" * 64}, {"made_from": "an older version's"}):
        save_file(TENSORS, tmp_path / "a.safetensors", text)
        tensors, metadata = read_tensors(tmp_path / "a.safetensors")
        assert set(tensors) == set(TENSORS)
        assert metadata == (text or {})


@pytest.mark.parametrize(
    "change",
    [
        {"weight": torch.arange(6.0).reshape(3, 2)},
        {"weight": torch.arange(6).reshape(2, 3)},
        {"weight": torch.arange(6.0).reshape(2, 3) + 1e-6},
        {"more": torch.zeros(1)},
    ],
    ids=["shape", "type", "value", "name"],
)
def test_the_hash_covers_names_types_shapes_and_values(change):
    assert content_hash({**TENSORS, **change}) != content_hash(TENSORS)


def test_the_hash_does_not_depend_on_order_or_layout():
    turned = {name: value.T.contiguous().T if value.ndim == 2 else value for name, value in reversed(TENSORS.items())}
    assert content_hash(turned, TEXT) == content_hash(TENSORS, dict(reversed(TEXT.items())))
    assert content_hash(TENSORS, TEXT) != content_hash(TENSORS)


@pytest.mark.parametrize("content", [b"", b"words", struct.pack("<Q", 1 << 62) + b"{", struct.pack("<Q", 2) + b"[]"])
def test_no_tensor_file_is_one_line_with_the_remedy(tmp_path, content):
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(UserError, match=r"PCA file .* is damaged .*: remove it"):
        read_tensors(tmp_path / "a.safetensors", "PCA file", "remove it")


def test_what_is_no_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.safetensors")
    for name in ("pipe.safetensors", "none.safetensors", "."):
        with pytest.raises(UserError, match="check the path"):
            read_tensors(tmp_path / name)


def test_the_hash_is_an_entry_of_its_own(tmp_path):
    from safetensors import safe_open

    write_tensors(tmp_path / "a.safetensors", TENSORS)
    with safe_open(tmp_path / "a.safetensors", framework="pt") as stream:
        assert stream.metadata()[HASH] == content_hash(TENSORS)
