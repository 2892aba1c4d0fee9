"""Numbers that the published programs gave: the full set in ../shared where it is, else the subset in tests/data.

A subset file is an ``.npz`` without pickle: one flat array for each type of number (float16 as its low and high bytes,
which compress better apart) and ``tree.json``, which says where in them each tensor lies. ``tests/data/README.md``
says what the files hold, ``tests/data/make_subset.py`` makes them.
"""

import functools
import io
import json
import math
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("DISTILPLACE_SHARED", ROOT.parent / "shared"))
FULL = SHARED / "goldens"
SUBSET = ROOT / "tests" / "data" / "goldens"


class Elsewhere:
    """A value that another file of the subset holds already: its file and the keys down to it."""

    def __init__(self, *keys: str) -> None:
        self.keys = keys


def load_golden(name: str) -> Any:
    """A golden file's content, of the full set if it is there."""
    if (FULL / name).is_file():
        as_json = name.endswith(".json")
        return json.loads((FULL / name).read_text()) if as_json else torch.load(FULL / name, weights_only=True)
    return load_subset(SUBSET / name)


def is_recorded(name: str, *keys: str) -> bool:
    """Whether the set in use holds this file, and in it a value under these keys; a full set holds every one."""
    if (FULL / name).is_file():
        return True
    if not (SUBSET / name).with_suffix(".npz").is_file():
        return False
    tree = _tree((SUBSET / name).with_suffix(".npz"))
    for key in keys:
        if key not in tree:
            return False
        tree = tree[key]
    return True


@functools.cache
def _tree(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read("tree.json"))


def load_subset(path: Path) -> Any:
    """Content of a subset file, with or without its ending."""
    if path.suffix == ".json":
        return json.loads(path.read_text())
    with zipfile.ZipFile(path.with_suffix(".npz")) as archive:
        tree = json.loads(archive.read("tree.json"))
        members = [name for name in archive.namelist() if name.endswith(".npy")]
        arrays = {
            name.removesuffix(".npy"): np.load(io.BytesIO(archive.read(name)), allow_pickle=False) for name in members
        }
    if "float16.low" in arrays:
        both = np.stack([arrays.pop("float16.low"), arrays.pop("float16.high")], axis=1)
        arrays["float16"] = both.view("<f2").ravel()
    return _decoded(tree, {name: torch.from_numpy(array) for name, array in arrays.items()}, path.parent, {})


def write_subset(path: Path, content: Any) -> None:
    """The inverse of :func:`load_subset`; the same content gives the same bytes."""
    parts: dict[str, list[torch.Tensor]] = {}
    tree = _encoded(content, parts)
    arrays = {name: torch.cat(tensors).numpy() for name, tensors in parts.items()}
    if "float16" in arrays:
        both = arrays.pop("float16").astype("<f2").view(np.uint8).reshape(-1, 2)
        arrays |= {"float16.low": both[:, 0].copy(), "float16.high": both[:, 1].copy()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr(zipfile.ZipInfo("tree.json"), json.dumps(tree), zipfile.ZIP_LZMA)
        for name, array in sorted(arrays.items()):
            file = io.BytesIO()
            np.lib.format.write_array(file, array, allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), file.getvalue(), zipfile.ZIP_LZMA)


def _encoded(value: Any, parts: dict[str, list[torch.Tensor]]) -> Any:
    """``value`` in JSON's types; its tensors go to ``parts``."""
    if isinstance(value, torch.Tensor):
        kind = str(value.dtype).removeprefix("torch.")
        earlier = parts.setdefault(kind, [])
        start = sum(len(each) for each in earlier)
        earlier.append(value.detach().reshape(-1))
        return {"tensor": [kind, start, list(value.shape)]}
    if isinstance(value, Elsewhere):
        return {"elsewhere": list(value.keys)}
    if isinstance(value, dict):
        if all(isinstance(key, str) for key in value):
            return {key: _encoded(each, parts) for key, each in value.items()}
        return {"items": [[key, _encoded(each, parts)] for key, each in value.items()]}
    if isinstance(value, tuple):
        return {"tuple": [_encoded(each, parts) for each in value]}
    return [_encoded(each, parts) for each in value] if isinstance(value, list) else value


def _decoded(tree: Any, arrays: dict[str, torch.Tensor], folder: Path, seen: dict[str, Any]) -> Any:
    if isinstance(tree, list):
        return [_decoded(each, arrays, folder, seen) for each in tree]
    if not isinstance(tree, dict):
        return tree
    if set(tree) == {"tensor"}:
        kind, start, shape = tree["tensor"]
        return arrays[kind][start : start + math.prod(shape)].reshape(shape).clone()
    if set(tree) == {"tuple"}:
        return tuple(_decoded(each, arrays, folder, seen) for each in tree["tuple"])
    if set(tree) == {"items"}:
        return {key: _decoded(each, arrays, folder, seen) for key, each in tree["items"]}
    if set(tree) == {"elsewhere"}:
        name, *keys = tree["elsewhere"]
        if name not in seen:
            seen[name] = load_subset(folder / name)
        value = seen[name]
        for key in keys:
            value = value[key]
        return value
    return {key: _decoded(each, arrays, folder, seen) for key, each in tree.items()}
