"""Teacher stores: outputs of a frozen teacher for every place of a data set, computed once.

A folder with ``outputs.safetensors`` (one table per output, rows in the order of the keys) and ``manifest.json``: hash
of the teacher's weights and settings, preprocessing and data set. A store that does not fit the run is refused.
Training places are stored as the student will need them, test places always clean, so a report can show the teacher.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from common.errors import UserError
from common.files import atomic_path, sha256
from datasets.records import PlaceRecord
from engine.teachers import StoredTeacher

VERSION = 1
OUTPUTS, MANIFEST = "outputs.safetensors", "manifest.json"
NEUTRAL_SETTINGS = {"pretrained", "sparse_backend"}  # no part of what a network with given weights computes


@dataclass(frozen=True)
class StoreIdentity:
    """What a store was made from. ``weights`` is None where the teacher's file is not on this machine."""

    version: int
    model: str
    settings: str
    weights: str | None
    dataset: str
    places: str
    preprocessing: str

    def folder_name(self) -> str:
        """Data set and a hash of everything."""
        digest = hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()
        return f"{self.dataset}-{self.model}-{digest[:10]}"

    def differences(self, manifest: dict[str, Any]) -> list[str]:
        """Names of the entries in which a manifest differs; an unknown weights hash is no difference."""
        mine = asdict(self)
        return [n for n, value in mine.items() if manifest.get(n) != value and not (n == "weights" and value is None)]


def identify(
    model: str,
    settings: dict[str, Any],
    weights: Path,
    dataset: str,
    training: list[PlaceRecord],
    test: list[PlaceRecord],
    *,
    preprocessing: dict[str, Any],
) -> StoreIdentity:
    """Identity of the store that a run needs."""
    lines = [f"{part} {record.key}" for part, records in (("train", training), ("test", test)) for record in records]
    return StoreIdentity(
        version=VERSION,
        model=model,
        settings=json.dumps({k: v for k, v in settings.items() if k not in NEUTRAL_SETTINGS}, sort_keys=True),
        weights=sha256(weights) if weights.is_file() else None,
        dataset=dataset,
        places=hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16],
        preprocessing=json.dumps(preprocessing, sort_keys=True),
    )


def write_store(
    folder: Path,
    identity: StoreIdentity,
    training: tuple[list[str], dict[str, Tensor]],
    test: tuple[list[str], dict[str, Tensor]],
    facts: dict[str, str],
) -> None:
    """Write both parts and ``facts`` about the teacher for reports.

    The manifest goes last, so a store without one is incomplete and counts as absent.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST).unlink(missing_ok=True)
    tensors = {f"train.{name}": table.contiguous() for name, table in training[1].items()}
    tensors |= {f"test.{name}": table.contiguous() for name, table in test[1].items()}
    with atomic_path(folder / OUTPUTS) as temporary:
        save_file(tensors, temporary)
    content = {
        **asdict(identity),
        "sha256": sha256(folder / OUTPUTS),
        "facts": facts,
        "train_keys": training[0],
        "test_keys": test[0],
    }
    with atomic_path(folder / MANIFEST) as temporary:
        temporary.write_text(json.dumps(content))


def has_store(folder: Path) -> bool:
    """Is there a complete store?"""
    return (folder / MANIFEST).is_file()


def read_store(folder: Path, identity: StoreIdentity) -> tuple[StoredTeacher, StoredTeacher]:
    """Teachers for training and test places. Raises :class:`UserError` on a foreign or damaged store."""
    remedy = "rebuild it: the same command with --rebuild_store"
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"teacher store {folder} is incomplete ({error}); {remedy}") from None
    if different := identity.differences(manifest):
        raise UserError(
            f"teacher store {folder} was made from other {', '.join(different)} than this run has; {remedy}"
        )
    if not (folder / OUTPUTS).is_file() or sha256(folder / OUTPUTS) != manifest["sha256"]:
        raise UserError(f"teacher store {folder} is damaged ({OUTPUTS} does not match its hash); {remedy}")
    tables = load_file(folder / OUTPUTS)
    return (_part(tables, manifest, "train", folder), _part(tables, manifest, "test", folder))


def _part(tables: dict[str, Tensor], manifest: dict[str, Any], part: str, folder: Path) -> StoredTeacher:
    mine = {name.removeprefix(f"{part}."): table for name, table in tables.items() if name.startswith(f"{part}.")}
    return StoredTeacher(mine, manifest[f"{part}_keys"], folder, manifest["facts"])
