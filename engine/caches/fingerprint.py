"""What a set of computed outputs depends on: one fingerprint for teacher stores, whitenings, PCA and clusters.

Facts are plain values: the network with the hash of its weights, and all that decides which tensor a file becomes.
Lists say which frames, and what their files contain (:mod:`distilplace.common.contents`), wherever the folder lies. A
setting of a data set that this file does not know to be harmless counts, so a new one can never be forgotten. What is
not here changes nothing: worker count, batch size, device, sparse engine, losses, radii, names of folders.
"""

import hashlib
import json
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from distilplace.common.contents import content_hashes
from distilplace.datasets.base import PlaceData
from distilplace.datasets.loading import Rates
from distilplace.datasets.records import PlaceRecord

LOG = logging.getLogger("distilplace")
VERSION = 2
"""Raise it when networks, or the reading of files, give other numbers than before."""
# Settings of networks that change nothing of what one with given weights computes.
NEUTRAL_NETWORK = {"pretrained", "sparse_backend", "dropout", "trainable_from"}
# Settings of data sets that say where files lie, or which frames there are and what is near: the lists hold the frames.
NEUTRAL_DATA = {
    *("dataset_folder", "image_path", "distractors_folder", "mean_image_path", "image_lidar_k"),
    *("positive_radius", "negative_radius", "eval_radius", "frames_map", "train_fraction", "frame_tolerance", "split"),
    *("spatial_nms", "kitti_protocol", "kitti_sequence", "kitti_train_sequences", "nordland_variant"),
    *("nordland_database", "nordland_query", "svd_frames", "svd_stride", "svd_similarity", "query_crop"),
    *("demo_seed", "places", "train_runs", "test_runs"),
    *("quantization_size", "n_points", "bin_columns"),  # as PlaceData.cloud and PlaceData.reading have them
}
# Attributes of data sets that are no settings of images; every other one is, and counts: resize, views, crop_size ...
OTHERWISE = {"name", "cloud", "notes", "mean_image", "metric_positions", "settings", "validation_buffer"}
# Of clouds, and decided by the data set or its settings:
OTHERWISE |= {"clouds_in_metres", "drops_origin", "clouds_surveyed", "row_width"}
OTHERWISE |= {"sized_queries", "query_resize"}  # the latter counts with the frames that are queries
ABSENT = ""


class Augmented(NamedTuple):
    """How inputs are augmented: seed, rates (brightness, contrast, saturation; hue; erasing), recipe of the view."""

    seed: int
    rates: Rates
    view: int = 0


class Comparison(NamedTuple):
    """How a saved fingerprint differs: names of what does, and of what could not be compared on this machine."""

    different: list[str]
    unknown: list[str]


@dataclass(frozen=True)
class Fingerprint:
    """``facts``: name -> JSON value, None where it cannot be known here. ``lists``: name -> one text per frame."""

    facts: Mapping[str, Any] = field(default_factory=dict)
    lists: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def __or__(self, other: "Fingerprint") -> "Fingerprint":
        """Both together."""
        return Fingerprint({**self.facts, **other.facts}, {**self.lists, **other.lists})

    def digest(self) -> str:
        """64 hex digits: equal where everything is."""
        return hashlib.sha256(self.text().encode()).hexdigest()

    def text(self) -> str:
        """JSON with every list as its hash, to be kept in a file's metadata."""
        lists = {name: None if ABSENT in values else _hash(values) for name, values in self.lists.items()}
        return json.dumps({"facts": self.facts, "lists": lists}, sort_keys=True)

    def whole(self) -> dict[str, Any]:
        """As plain values, with whole lists."""
        return {"facts": dict(self.facts), "lists": {name: list(values) for name, values in self.lists.items()}}

    def compare(self, saved: object) -> Comparison:
        """Compare with a saved one (of :meth:`text`, parsed, or :meth:`whole`); anything else differs in everything."""
        if not isinstance(saved, dict) or not isinstance(saved.get("facts"), dict):
            return Comparison(["origin (the file does not say what it was made of)"], [])
        facts, lists = saved["facts"], saved.get("lists")
        lists = lists if isinstance(lists, dict) else {}
        found = Comparison([], [])
        for name in sorted({*self.facts, *facts}):
            mine = self.facts.get(name)
            if name in self.facts and mine is None and facts.get(name) is not None and name in KNOWN_ELSEWHERE:
                found.unknown.append(name)
            elif json.dumps(mine, sort_keys=True) != json.dumps(facts.get(name), sort_keys=True):
                found.different.append(name)
        for name in sorted({*self.lists, *lists}):
            _compare_lists(name, self.lists.get(name), lists.get(name), found)
        return found


KNOWN_ELSEWHERE = {"weights"}
"""Facts that may be unknown on this machine: a store may be used where its teacher's weights are not."""


def of_network(name: str, settings: Mapping[str, Any], weights: str | None, precision: str) -> Fingerprint:
    """A network: ``weights`` is the hash of its file or tensors, None where the file is absent."""
    kept = {key: value for key, value in settings.items() if key not in NEUTRAL_NETWORK}
    return Fingerprint(
        {"version": VERSION, "model": name, "architecture": _plain(kept), "weights": weights, "precision": precision}
    )


def of_frames(
    label: str,
    data: PlaceData,
    records: Sequence[PlaceRecord],
    requires: Collection[str],
    *,
    augmented: Augmented | None = None,
    scales: Sequence[float] = (1.0,),
) -> Fingerprint:
    """The frames ``records`` as a network that reads the batch keys ``requires`` sees them; ``label`` names the part.

    Only files that are read count: a record's first image, or all of them where one is drawn at random.
    """
    facts: dict[str, Any] = {"data set": data.name, "reading": _plain(data.reading())}
    facts |= {name: value for name, value in data.settings.items() if name not in NEUTRAL_DATA}
    facts["augmentation"] = None if augmented is None else {"seed": augmented.seed}
    lists: dict[str, Sequence[str]] = {"keys": [record.key for record in records]}
    if "images" in requires:
        facts |= _image_facts(data, augmented) | {"scales": [float(scale) for scale in scales]}
        lists["image files"] = _image_files(data, records, drawn=augmented is not None)
    if {"coords", "features"} & set(requires):
        facts |= {"voxel size": data.cloud.quantization_size, "points": data.cloud.n_points}
        facts["cloud augmentation"] = None if augmented is None else data.cloud.augmentation
        there = [record.cloud for record in records if record.cloud is not None]
        hashes = dict(zip(there, content_hashes(there), strict=True))
        lists["cloud files"] = ["none" if record.cloud is None else hashes[record.cloud] for record in records]
    return Fingerprint(
        {f"{name} ({label})": _plain(value) for name, value in facts.items()},
        {f"{name} ({label})": values for name, values in lists.items()},
    )


def saved_text(path: Path) -> object:
    """The fingerprint in the metadata ("made_from") of a .safetensors file, parsed; None where there is none."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as stream:
            return json.loads((stream.metadata() or {}).get("made_from", "null"))
    except (SafetensorError, OSError, ValueError, RecursionError):
        return None


def log_nearest(what: str, paths: Sequence[Path], made_from: Fingerprint) -> None:
    """Say in what the nearest of the files ``paths`` differs: why it is not used."""
    compared = [(path, found.different) for path in paths if (found := made_from.compare(saved_text(path))).different]
    if compared:
        path, different = min(compared, key=lambda each: len(each[1]))
        LOG.info("%s: %s is of other %s: not used", what, path, ", ".join(different))


def _image_facts(data: PlaceData, augmented: Augmented | None) -> dict[str, Any]:
    mean = data.mean_image
    facts: dict[str, Any] = {
        name.replace("_", " "): getattr(data, name) for name in PlaceData.__annotations__ if name not in OTHERWISE
    }
    facts["mean image"] = None if mean is None else hashlib.sha256(mean.tobytes()).hexdigest()[:16]
    if augmented is not None:
        facts |= dict(zip(("bcs_aug_rate", "hue_aug_rate", "erasing_aug_rate"), augmented.rates, strict=True))
        facts["recipe"] = augmented.view
    return facts


def _image_files(data: PlaceData, records: Sequence[PlaceRecord], *, drawn: bool) -> list[str]:
    """Per record the hash of its image's content, with its crop and its own size; of all images where one is drawn."""
    used = [record.images if drawn else record.images[:1] for record in records]
    paths = [path for images in used for path in images]
    hashes = iter(content_hashes(paths))
    rows = []
    for record, images in zip(records, used, strict=True):
        found = [next(hashes) for _ in images]
        if ABSENT in found:
            rows.append(ABSENT)
        else:
            cut = [] if record.crop is None else [repr(tuple(float(side) for side in record.crop))]
            if record.as_query and data.query_resize is not None:
                cut.append(repr(tuple(data.query_resize)))
            rows.append(found[0] if len(found) == 1 and not cut else _hash([*found, *cut])[:32])
    return rows


def _compare_lists(name: str, mine: Sequence[str] | None, theirs: object, found: Comparison) -> None:
    if mine is None or theirs is None:
        found.different.append(name)
    elif isinstance(theirs, str):  # its hash alone was kept
        if ABSENT in mine:
            found.unknown.append(f"{mine.count(ABSENT)} of {len(mine)} {name}")
        elif _hash(mine) != theirs:
            found.different.append(name)
    elif not isinstance(theirs, list) or len(mine) != len(theirs):
        found.different.append(name)
    else:
        other = sum(a != b for a, b in zip(mine, theirs, strict=True) if a != ABSENT)
        if other:
            found.different.append(f"{other} of {len(mine)} {name}")
        elif ABSENT in mine:
            found.unknown.append(f"{mine.count(ABSENT)} of {len(mine)} {name}")


def _hash(lines: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _plain(value: Any) -> Any:
    """``value`` as JSON has it; what JSON has not, as its text."""
    return json.loads(json.dumps(value, sort_keys=True, default=str))
