"""What ``torch.save`` wrote, read as data: tensors and plain values; a foreign class stays a name.

``torch.load(weights_only=True)`` refuses a whole file because of one foreign object beside its tensors, and believes
the sizes that a file names. Here the pickle inside is interpreted (:mod:`distilplace.common.pickles.reader`), a tensor
stays a :class:`TensorRecord` until it is asked for, and every size is compared with the file before memory is reserved.

Two formats: a zip archive with ``data.pkl`` and one stored entry per storage (since PyTorch 1.6), and before it five
pickles in a row followed by the storages' bytes. A file that is one pickle of NumPy arrays is read too.
"""

import mmap
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from distilplace.common.pickles.plain_classes import OPAQUE, PLAIN
from distilplace.common.pickles.reader import Call, Foreign, ForeignClassError, PickleError, Stateful, read_pickle

MAGIC = 0x1950A86A20F9469CFC6C  # first pickle of the older format
EXPANDED = 1 << 24  # numbers that a tensor may have beyond those of its storage (expanded ones)
MARKS = {"conj", "neg"}  # what torch has yet to do with a tensor's stored numbers
_LENGTH = 8  # bytes that say how long a storage is, in the older format


class Storage(NamedTuple):
    """The numbers behind one or several tensors: an entry of the archive, or a stretch of the file."""

    key: str
    dtype: torch.dtype
    numel: int


class TensorRecord(Stateful):
    """A tensor that was not read yet."""

    __slots__ = ("dtype", "marks", "offset", "shape", "storage", "stride")

    def __init__(
        self, storage: Any, offset: Any, shape: Any, stride: Any, dtype: Any = None, marks: frozenset[str] = frozenset()
    ) -> None:
        if not isinstance(storage, Storage) or not isinstance(shape, tuple) or not isinstance(stride, tuple):
            raise PickleError("a tensor without its numbers")
        if len(shape) != len(stride) or not all(type(n) is int and n >= 0 for n in (offset, *shape, *stride)):
            raise PickleError("a tensor of an impossible shape")
        self.storage, self.offset, self.shape, self.stride = storage, offset, shape, stride
        self.dtype = dtype or storage.dtype
        self.marks = marks

    def set_state(self, state: Any) -> None:
        """Attributes that someone hung on a tensor are of no use."""


@dataclass(frozen=True)
class Unusable:
    """A tensor that has no plain numbers; ``kind`` it is, and what helps."""

    kind: str


def _tensor(
    storage: Any, offset: Any, shape: Any, stride: Any, _grad: Any = None, _hooks: Any = None, marks: Any = None
) -> Any:
    return _tensor_of_type(storage, offset, shape, stride, None, None, None, marks)


def _tensor_of_type(
    storage: Any, offset: Any, shape: Any, stride: Any, _grad: Any, _hooks: Any, dtype: Any, marks: Any = None
) -> Any:
    if isinstance(storage, Unusable):
        return storage
    if not isinstance(marks, dict | None):
        raise PickleError("a tensor whose marks are none")
    meant = frozenset(str(name) for name, is_set in (marks or {}).items() if is_set)
    if unknown := sorted(meant - MARKS):
        return Unusable(f"a tensor with the unknown mark {unknown[0]}: save it again without (.clone())")
    return TensorRecord(storage, offset, shape, stride, dtype, meant)


def _tensor_with_attributes(function: Any, kind: Any, arguments: Any, *_: Any) -> Any:
    if kind in _TENSOR_CLASSES.values() and isinstance(function, Call):
        return function.function(*arguments)
    return Unusable(f"a tensor of the class {kind.name if isinstance(kind, Foreign) else kind}: save plain tensors")


_TENSOR_CLASSES = {
    "torch.Tensor": Call(lambda *_: Unusable("a tensor of a very old PyTorch: save it again with a newer one")),
    "torch.nn.parameter.Parameter": Call(lambda data=None, *_: data),
    "torch.nn.parameter.Buffer": Call(lambda data=None, *_: data),
}
_STORAGES = {
    **{"Double": torch.float64, "Float": torch.float32, "Half": torch.float16, "BFloat16": torch.bfloat16},
    **{"Long": torch.int64, "Int": torch.int32, "Short": torch.int16, "Char": torch.int8, "Byte": torch.uint8},
    **{"Bool": torch.bool, "ComplexDouble": torch.complex128, "ComplexFloat": torch.complex64},
}
_UNUSABLE = {
    "_rebuild_qtensor": "a quantized tensor: save the network before it is quantized",
    "_rebuild_sparse_tensor": "a sparse tensor: save it dense (.to_dense())",
    "_rebuild_nested_tensor": "a nested tensor: save plain tensors",
    "_rebuild_meta_tensor_no_storage": "a meta tensor, which has no numbers: load the weights before saving them",
    "_rebuild_wrapper_subclass": "a tensor of a class of its own: save plain tensors",
}
_TABLE: dict[str, Any] = {
    **PLAIN,
    **OPAQUE,
    **{
        f"{room}.{name}": Call(lambda *_, name=name: Foreign(f"builtins.{name}"))
        for room in ("builtins", "__builtin__")
        for name in ("dict", "list", "tuple", "int", "float", "bool", "str")
    },
    **{f"torch.{name}Storage": dtype for name, dtype in _STORAGES.items()},
    **{f"torch.cuda.{name}Storage": dtype for name, dtype in _STORAGES.items()},
    **{f"torch.storage.{name}": torch.uint8 for name in ("UntypedStorage", "_UntypedStorage")},
    **{f"torch.{name}": value for name, value in vars(torch).items() if isinstance(value, torch.dtype)},
    **_TENSOR_CLASSES,
    "torch.UntypedStorage": torch.uint8,
    "torch.Size": Call(lambda sizes=(): tuple(sizes)),
    "torch.device": Call(lambda *parts: str(parts)),
    "torch.serialization._get_layout": Call(lambda name: name),
    "torch._utils._rebuild_tensor": Call(_tensor),
    "torch._utils._rebuild_tensor_v2": Call(_tensor),
    "torch._utils._rebuild_tensor_v3": Call(_tensor_of_type),
    "torch._utils._rebuild_parameter": Call(lambda data, *_: data),
    "torch._utils._rebuild_parameter_with_state": Call(lambda data, *_: data),
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": Call(lambda data, *_: data),
    "torch._tensor._rebuild_from_type_v2": Call(_tensor_with_attributes),
    **{f"torch._utils.{name}": Call(lambda *_, kind=kind: Unusable(kind)) for name, kind in _UNUSABLE.items()},
}

# No checkpoint needs these: a file that names one was made to do harm.
_HARMFUL = {"os", "posix", "nt", "subprocess", "sys"}
_HARMFUL_PACKAGES = {"importlib", "shutil", "socket", "ctypes", "runpy", "pty", "webbrowser", "pip", "multiprocessing"}
_HARMFUL_FILES = {"io.open", "_io.open", "_io.FileIO", "io.FileIO"}
_HARMFUL_BUILTINS = {"eval", "exec", "compile", "__import__", "open", "input", "breakpoint", "globals", "exit"}


class _Table(dict[str, Any]):
    """:data:`_TABLE`; asking it for a harmful name ends the reading."""

    def __contains__(self, name: object) -> bool:
        *packages, last = str(name).split(".")
        builtin = packages[:1] in (["builtins"], ["__builtin__"])
        if (
            name in _HARMFUL_FILES
            or _HARMFUL.intersection(packages)
            or _HARMFUL_PACKAGES.intersection(packages[:1])
            or (builtin and _HARMFUL_BUILTINS.intersection((*packages[1:], last)))
        ):
            raise ForeignClassError(str(name))
        return super().__contains__(name)


class TorchFile(ABC):
    """A file that is open: ``value`` is what it holds, with a :class:`TensorRecord` for each tensor."""

    value: Any

    def tensor(self, record: TensorRecord) -> Tensor:
        """The tensor of a record, on the CPU; :class:`PickleError` when its numbers are not in the file."""
        storage, numbers = record.storage, 1
        for length in record.shape:
            numbers *= length
        element = storage.dtype.itemsize
        available = storage.numel * element // record.dtype.itemsize
        last = record.offset + sum((n - 1) * step for n, step in zip(record.shape, record.stride, strict=True))
        if numbers and (last >= available or numbers > available + EXPANDED):
            raise PickleError(f"a tensor {list(record.shape)} in a storage of {available} numbers")
        if numbers == 0 and max(record.shape) > EXPANDED:
            raise PickleError(f"an empty tensor {list(record.shape)}")
        if numbers == 0:
            return torch.empty(record.shape, dtype=record.dtype)
        flat = torch.frombuffer(self._numbers(storage, storage.numel * element), dtype=torch.uint8).view(record.dtype)
        found = flat.as_strided(record.shape, record.stride, record.offset)
        found = found.conj().resolve_conj() if "conj" in record.marks else found
        return -found if "neg" in record.marks else found

    @abstractmethod
    def _numbers(self, storage: Storage, size: int) -> bytearray:
        """The first ``size`` bytes of a storage."""


@contextmanager
def open_torch_file(path: Path) -> Iterator[TorchFile]:
    """Open what ``torch.save``, or ``pickle.dump`` of NumPy arrays, wrote.

    Raises:
        ForeignClassError: it names something that no checkpoint needs and that can do harm.
        PickleError, zipfile.BadZipFile, OSError, ...: it is damaged or something else.

    """
    with path.open("rb") as stream:
        if stream.read(4) == b"PK\x03\x04":
            with zipfile.ZipFile(stream) as archive:
                yield _ZipFile(archive, path.stat().st_size)
        elif path.stat().st_size == 0:
            raise PickleError("it is empty")
        else:
            with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
                yield _OlderFile(content)


class _ZipFile(TorchFile):
    def __init__(self, archive: zipfile.ZipFile, size: int) -> None:
        self._archive, self._left = archive, size
        self._entries = {info.filename: info for info in archive.infolist()}
        pickles = [name for name in self._entries if name == "data.pkl" or name.endswith("/data.pkl")]
        if len(pickles) != 1 or len(self._entries) != len(archive.infolist()):
            raise PickleError("it is a zip archive that torch.save did not write")
        self._front = pickles[0].removesuffix("data.pkl")
        if self._entries.get(f"{self._front}byteorder") and self._read(f"{self._front}byteorder") != b"little":
            raise PickleError("its numbers are big-endian")
        self._cache: dict[str, bytearray] = {}
        self.value = read_pickle(
            bytes(self._read(pickles[0])), _Table(_TABLE), keep_foreign=True, persistent=_storage
        ).value

    def _read(self, name: str) -> bytearray:
        """The content of an entry, whose checksum ``zipfile`` compares; no more than the file has bytes, in all."""
        info = self._entries.get(name)
        if info is None or info.compress_type != zipfile.ZIP_STORED or info.file_size > self._left:
            raise PickleError(f"its entry {name} is {'absent' if info is None else 'no stored one'}")
        self._left -= info.file_size
        content, at = bytearray(info.file_size), 0
        with self._archive.open(info) as stream:
            while block := stream.read(1 << 20):
                content[at : at + len(block)] = block
                at += len(block)
        if at != info.file_size:
            raise PickleError(f"its entry {name} is cut off")
        return content

    def _numbers(self, storage: Storage, size: int) -> bytearray:
        if storage.key not in self._cache:
            self._cache[storage.key] = self._read(f"{self._front}data/{storage.key}")
        content = self._cache[storage.key]
        if len(content) != size:
            raise PickleError(f"a storage of {len(content)} bytes instead of {size}")
        return content


class _OlderFile(TorchFile):
    def __init__(self, content: mmap.mmap) -> None:
        self._content = content
        self._stretches: dict[str, tuple[int, int]] = {}
        self._cache: dict[str, bytearray] = {}
        if content[257:262] == b"ustar":
            raise PickleError("it is a tar archive: unpack it, and give the file inside")
        seen: dict[str, int] = {}
        first, at = read_pickle(content, _Table(_TABLE), keep_foreign=True)
        if first != MAGIC:
            if at != len(content):
                raise PickleError(f"{len(content) - at} bytes follow its end")
            self.value = first
            return

        def remembered(key: Any) -> Any:
            storage = _storage(key)
            if isinstance(storage, Storage):
                seen[storage.key] = storage.dtype.itemsize
            return storage

        _, at = read_pickle(content, {}, start=at)
        system, at = read_pickle(content, PLAIN, start=at)
        if not isinstance(system, Mapping) or system.get("little_endian") is not True:
            raise PickleError("its numbers are big-endian")
        self.value, at = read_pickle(content, _Table(_TABLE), start=at, keep_foreign=True, persistent=remembered)
        keys, at = read_pickle(content, {}, start=at)
        self._find_storages(keys, seen, at)

    def _find_storages(self, keys: Any, elements: dict[str, int], at: int) -> None:
        if not isinstance(keys, list) or set(keys) != set(elements) or len(keys) != len(elements):
            raise PickleError("its list of storages is not that of its tensors")
        for key in keys:
            begin = at + _LENGTH
            size = int.from_bytes(self._content[at:begin], "little") * elements[key]
            if begin + size > len(self._content):
                raise PickleError("cut off")
            self._stretches[key], at = (begin, size), begin + size
        if at != len(self._content):
            raise PickleError(f"{len(self._content) - at} bytes follow its end")

    def _numbers(self, storage: Storage, size: int) -> bytearray:
        begin, length = self._stretches[storage.key]
        if length != size:
            raise PickleError(f"a storage of {length} bytes instead of {size}")
        if storage.key not in self._cache:
            self._cache[storage.key] = bytearray(self._content[begin : begin + size])
        return self._cache[storage.key]


def _storage(key: Any) -> Any:
    """What a persistent id stands for: a storage, or the class that the older format keeps its source with."""
    if isinstance(key, tuple) and len(key) == 4 and key[0] == "module":
        return key[1]
    if not isinstance(key, tuple) or len(key) not in (5, 6) or key[0] != "storage":
        raise PickleError("an object that lies outside the file")
    _, dtype, name, place, count = key[:5]
    if place == "meta":
        return Unusable(_UNUSABLE["_rebuild_meta_tensor_no_storage"])
    if isinstance(dtype, Foreign):
        return Unusable(f"a tensor of the kind {dtype.name.removesuffix('Storage')}: save plain numbers")
    if not isinstance(dtype, torch.dtype) or not isinstance(name, str) or type(count) is not int or count < 0:
        raise PickleError("a storage that says nothing of itself")
    if len(key) == 6 and key[5] is not None:
        return Unusable("a view of another storage: save it again with a newer PyTorch")
    return Storage(name, dtype, count)
