"""Teacher stores: outputs of a frozen teacher for every place of a data set, computed once.

A folder with ``outputs.safetensors`` (one table per output, rows in the order of the keys) and ``manifest.json``: the
fingerprint of what the outputs were made from, with the hash of every frame's files. A store that does not fit the run
is refused. Training places are stored as the student will need them, test places always clean, so a report can show the
teacher.
"""

import glob
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from distilplace.common.errors import UserError
from distilplace.common.files import atomic_path, sha256
from distilplace.engine.caches.fingerprint import Comparison, Fingerprint
from distilplace.engine.teachers.sources import StoredTeacher

OUTPUTS, MANIFEST = "outputs.safetensors", "manifest.json"
OWN_HASH = "manifest_sha256"
LABELS = {"train": "training frames", "test": "test frames"}
"""Names of the parts in the tables, and in fingerprints."""
REMEDY = "rebuild it: the same command with --rebuild_store"


def write_store(
    folder: Path,
    made_from: Fingerprint,
    training: tuple[list[str], dict[str, Tensor]],
    test: tuple[list[str], dict[str, Tensor]],
    facts: dict[str, str],
) -> None:
    """Write both parts and ``facts`` about the teacher for reports.

    The manifest goes last, so a store without one is incomplete and counts as absent.

    Raises:
        UserError: an output that is not finite: a teacher that diverged, or an input beyond it.

    """
    for keys, tables in (training, test):
        _require_finite(keys, tables)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST).unlink(missing_ok=True)
    tensors = {f"train.{name}": table.contiguous() for name, table in training[1].items()}
    tensors |= {f"test.{name}": table.contiguous() for name, table in test[1].items()}
    with atomic_path(folder / OUTPUTS) as temporary:
        save_file(tensors, temporary)
    content = {
        "fingerprint": made_from.whole(),
        "sha256": sha256(folder / OUTPUTS),
        "facts": facts,
        "train_keys": training[0],
        "test_keys": test[0],
    }
    with atomic_path(folder / MANIFEST) as temporary:
        temporary.write_text(json.dumps({**content, OWN_HASH: _own_hash(content)}))


def has_store(folder: Path) -> bool:
    """Is there a complete store? One whose filling was interrupted has no manifest."""
    return (folder / MANIFEST).is_file()


def read_manifest(folder: Path) -> dict[str, Any]:
    """The checked manifest of a store. Raises :class:`UserError` naming what is wrong with it."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"teacher store {folder} is incomplete ({error}); {REMEDY}") from None
    if not isinstance(manifest, dict):
        raise _damaged(folder, f"{MANIFEST} holds no table of entries")
    kinds = {"fingerprint": dict, "sha256": str, "facts": dict, "train_keys": list, "test_keys": list}
    if "fingerprint" not in manifest and "preprocessing" in manifest:
        raise UserError(f"teacher store {folder} is of an older version, which did not note its images; {REMEDY}")
    for name, kind in kinds.items():
        if not isinstance(manifest.get(name), kind):
            state = "is absent" if name not in manifest else f"is no {kind.__name__}"
            raise _damaged(folder, f"{name} of {MANIFEST} {state}")
    texts = [*manifest["train_keys"], *manifest["test_keys"], *manifest["facts"].values()]
    if not all(isinstance(text, str) for text in texts):
        raise _damaged(folder, f"keys and facts of {MANIFEST} must be texts")
    for part in LABELS:
        if len(set(manifest[f"{part}_keys"])) != len(manifest[f"{part}_keys"]):
            raise _damaged(folder, f"{part}_keys of {MANIFEST} holds a key twice")
    if manifest.pop(OWN_HASH, None) != _own_hash(manifest):
        raise _damaged(folder, f"{MANIFEST} does not match its own hash")
    return manifest


def _own_hash(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def compare_store(folder: Path, made_from: Fingerprint) -> Comparison:
    """How a store differs from what a run needs."""
    return made_from.compare(read_manifest(folder)["fingerprint"])


def compare_stores(home: Path, label: str, made_from: Fingerprint) -> list[tuple[Path, Comparison]]:
    """The readable stores in ``home`` whose names begin with ``label``, and how each differs."""
    found = []
    for folder in sorted(path for path in home.glob(f"{glob.escape(label)}-*") if has_store(path)):
        try:
            found.append((folder, compare_store(folder, made_from)))
        except UserError:  # damaged, or of an older version: no candidate
            continue
    return found


@dataclass(frozen=True)
class Store:
    """What a store holds: both parts, the name of the teacher, and the lists of its fingerprint (its frames)."""

    folder: Path
    training: StoredTeacher
    test: StoredTeacher
    model: str
    lists: Mapping[str, Sequence[str]]


def read_store(folder: Path, made_from: Fingerprint) -> tuple[StoredTeacher, StoredTeacher]:
    """Teachers for training and test places. Raises :class:`UserError` on a foreign or damaged store."""
    if different := compare_store(folder, made_from).different:
        raise UserError(
            f"teacher store {folder} was made from other {', '.join(different)} than this run has; {REMEDY}"
        )
    store = open_store(folder)
    return store.training, store.test


def open_store(folder: Path) -> Store:
    """A store, whatever it was made from. Raises :class:`UserError` on one that is absent or damaged."""
    if not has_store(folder):
        raise UserError(f"teacher store {folder} does not exist, or was never filled to its end: check the path")
    manifest = read_manifest(folder)
    if not (folder / OUTPUTS).is_file() or sha256(folder / OUTPUTS) != manifest["sha256"]:
        raise _damaged(folder, f"{OUTPUTS} does not match its hash")
    facts, lists = (manifest["fingerprint"].get(name) for name in ("facts", "lists"))
    if not isinstance(facts, dict) or not isinstance(lists, dict):
        raise _damaged(folder, f"the fingerprint of {MANIFEST} has no facts or no lists")
    for part, label in LABELS.items():
        if manifest[f"{part}_keys"] != lists.get(f"keys ({label})"):
            raise _damaged(folder, f"{part}_keys of {MANIFEST} are not those of its fingerprint")
    try:
        tables = load_file(folder / OUTPUTS)
    except (SafetensorError, OSError, ValueError) as error:
        raise _damaged(folder, f"{OUTPUTS}: {error}") from None
    training, test = (_part(tables, manifest, part, folder) for part in LABELS)
    return Store(folder, training, test, str(facts.get("model")), lists)


def _part(tables: Mapping[str, Tensor], manifest: Mapping[str, Any], part: str, folder: Path) -> StoredTeacher:
    mine = {name.removeprefix(f"{part}."): table for name, table in tables.items() if name.startswith(f"{part}.")}
    keys = manifest[f"{part}_keys"]
    if not mine and keys:
        raise _damaged(folder, f"{OUTPUTS} has no table for {part}_keys")
    for name, table in mine.items():
        if table.ndim == 0 or len(table) != len(keys):
            raise _damaged(folder, f"table {part}.{name} of shape {list(table.shape)} has no row for each key")
        if not table.isfinite().all():
            raise _damaged(folder, f"table {part}.{name} holds numbers that are not finite")
    return StoredTeacher(mine, keys, folder, manifest["facts"])


def _require_finite(keys: list[str], tables: Mapping[str, Tensor]) -> None:
    for name, table in tables.items():
        bad = (~table.flatten(1).isfinite().all(dim=1)).nonzero().flatten().tolist()
        if bad:
            raise UserError(
                f"the teacher's {name} of {len(bad)} of {len(keys)} places is not finite, the first {keys[bad[0]]}: "
                "check its weights and that place's files"
            )


def _damaged(folder: Path, what: str) -> UserError:
    return UserError(f"teacher store {folder} is damaged ({what}); {REMEDY}")
