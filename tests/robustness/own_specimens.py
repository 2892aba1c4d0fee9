"""The files that DistilPlace writes itself, checkpoints of other origin, and settings; each with its reader."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from distilplace.common.tensor_files import write_tensors
from tests.robustness.specimens import WORDS, Specimen, Value, saved


class Small(nn.Module):
    """A network with the parts that checkpoints hold."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.convolution, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)


def tensors(model: nn.Module) -> Mapping[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def weights(path: Path) -> Value:
    from distilplace.models.checkpoints import load_weights

    torch.manual_seed(5)
    model = Small()
    load_weights(model, path)
    return tensors(model)


def own_weights(folder: Path) -> Path:
    from distilplace.models.checkpoints import save_weights

    return save_weights(Small(), folder / "best.safetensors", {"model": "small"})


def write_numpy(path: Path) -> None:
    path.write_bytes(pickle.dumps({"model": {name: value.numpy() for name, value in tensors(Small()).items()}}))


def write_published(path: Path) -> None:
    from distilplace.models.whitening import Whitening

    torch.manual_seed(6)
    torch.save(Whitening.fit(torch.randn(50, 8), 4).state(), path)


def published_whitening(path: Path) -> Value:
    from distilplace.models.whitening import Whitening

    found = Whitening.published(path)
    return [found.mean, found.dvt]


LEGACY: dict[str, Any] = {"_use_new_zipfile_serialization": False}
WEIGHTS = {
    "best.safetensors": Specimen(own_weights, weights, checked=True),
    "zipped.pth": Specimen(
        lambda folder: saved(folder, "zipped.pth", lambda path: torch.save(Small().state_dict(), path)),
        weights,
        checked=True,
    ),
    "numpy.pkl": Specimen(
        lambda folder: saved(folder, "numpy.pkl", write_numpy),
        weights,
        tolerates=(*WORDS, "zeroed"),
    ),
    "published_whitening.pt": Specimen(
        lambda folder: saved(folder, "published_whitening.pt", write_published), published_whitening, checked=True
    ),
    "legacy.pth": Specimen(
        lambda folder: saved(
            folder,
            "legacy.pth",
            lambda path: torch.save({"state_dict": Small().state_dict(), "epoch": 3}, path, **LEGACY),
        ),
        weights,
        tolerates=(*WORDS, "zeroed"),
    ),
}

KEYS = ["frame 1", "frame 2", "frame 3"]


def made_from() -> Any:
    from distilplace.engine.caches.fingerprint import Fingerprint
    from distilplace.engine.caches.store import LABELS

    return Fingerprint({"model": "small"}, {f"keys ({label})": KEYS for label in LABELS.values()})


def store(folder: Path, name: str) -> Path:
    from distilplace.engine.caches.store import write_store

    table = {"embedding": torch.arange(12.0).reshape(3, 4)}
    write_store(
        folder / "store",
        made_from(),
        (KEYS, table),
        (KEYS, {"embedding": table["embedding"].clone()}),
        {"parameters": "304"},
    )
    return folder / "store" / name


def stored(path: Path) -> Value:
    from distilplace.engine.caches.store import read_store

    return [teacher.outputs({"keys": KEYS}) for teacher in read_store(path.parent, made_from())]


def whitening(path: Path) -> Value:
    from distilplace.models.whitening import Whitening

    found = Whitening.load(path, "these images")
    return [found.mean, found.dvt]


def write_whitening(path: Path) -> None:
    from distilplace.models.whitening import Whitening

    torch.manual_seed(6)
    Whitening.fit(torch.randn(50, 8), 4).save(path, "these images")


def pca(path: Path) -> Value:
    from distilplace.engine.caches.reduction import _read

    found = _read(path)
    return [found.mean, found.projection]


def write_pca(path: Path) -> None:
    from distilplace.engine.caches.reduction import _write
    from distilplace.evaluation.retrieval.whitening import PCAWhitening

    rows = np.random.default_rng(8).normal(size=(40, 6)).astype(np.float32)
    _write(path, PCAWhitening.fit(rows, 3), made_from())


def write_clusters(path: Path) -> None:
    torch.manual_seed(9)
    descriptors = torch.nn.functional.normalize(torch.randn(30, 8), dim=1)
    write_tensors(path, {"descriptors": descriptors}, {"made_from": made_from().text()})


def clusters(path: Path) -> Value:
    from distilplace.engine.caches.clusters import read_descriptors

    return read_descriptors(path)


def checkpoint(path: Path) -> Value:
    from distilplace.engine.runs.checkpoint import load_checkpoint

    torch.manual_seed(7)
    model = Small()
    return [load_checkpoint(path, {"network": model}), tensors(model)]


def write_checkpoint(path: Path) -> None:
    from distilplace.engine.runs.checkpoint import save_checkpoint

    save_checkpoint(path, {"network": Small()}, {"epoch": 2, "step": 31})


STORES = {
    "manifest.json": Specimen(lambda folder: store(folder, "manifest.json"), stored, checked=True),
    "outputs.safetensors": Specimen(lambda folder: store(folder, "outputs.safetensors"), stored, checked=True),
    "whitening.safetensors": Specimen(
        lambda folder: saved(folder, "whitening.safetensors", write_whitening), whitening, checked=True
    ),
    "pca.safetensors": Specimen(lambda folder: saved(folder, "pca.safetensors", write_pca), pca, checked=True),
    "clusters.safetensors": Specimen(
        lambda folder: saved(folder, "clusters.safetensors", write_clusters), clusters, checked=True
    ),
    "last.ckpt": Specimen(lambda folder: saved(folder, "last.ckpt", write_checkpoint), checkpoint, checked=True),
}


def settings(path: Path) -> Value:
    from distilplace.engine.options.command_line import read_yaml

    return repr(read_yaml(path))


def started_run(folder: Path) -> Path:
    """The options of a run that was begun."""
    from distilplace.engine.runs.folder import RunFolder

    with RunFolder(folder / "run") as run:
        run.begin(run_options(), "cpu")
    return folder / "run" / "config.yaml"


def run_options() -> Any:
    from distilplace.engine.options import TrainOptions

    return TrainOptions(epochs=12, image_lr=0.001)


def resumed(path: Path) -> Value:
    from distilplace.engine.options.yaml_files import read_typed_yaml
    from distilplace.engine.runs.folder import NEUTRAL, RunFolder

    with RunFolder(path.parent) as run:
        before = path.read_bytes()
        run.begin(run_options(), "cpu")
    path.write_bytes(before)
    return {name: value for name, value in read_typed_yaml(path).items() if name not in NEUTRAL}


def personal(path: Path) -> Value:
    from distilplace.engine.options import TrainOptions
    from distilplace.engine.options.command_line import parse

    return repr(parse(TrainOptions, [], home=path.parent, environment={}, all_read=False))


SETTINGS = {
    "config.yaml": Specimen(started_run, resumed, checked=True),
    "paths.yaml": Specimen(
        lambda folder: saved(folder, "paths.yaml", lambda path: path.write_text(PATHS)),
        personal,
        tolerates=(*WORDS, "truncated", "emptied"),
    ),
    "recipe.yaml": Specimen(
        lambda folder: saved(folder, "recipe.yaml", lambda path: path.write_text(RECIPE)),
        settings,
        tolerates=(*WORDS, "truncated", "emptied"),
    ),
}
RECIPE = "# A recipe.\ndataset: frames\nepochs: 12\nmilestones: 5_9\nT_path: [a.pth, b.pth]\nimage_lr: 0.0001\n"

PATHS = "dataset_folder: data/oxford\nnum_workers: 4\nlogdir: logs\nboreas:\n  dataset_folder: data/boreas\n"

GROUPS = {"weights": WEIGHTS, "stores": STORES, "settings": SETTINGS}
