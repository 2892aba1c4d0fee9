"""Data sets by name. Nothing is read, and no optional library imported, before a data set is created."""

import importlib
import inspect
from typing import Any

from common.errors import unknown_name
from datasets.base import PlaceData
from datasets.records import CloudSettings, EvaluationSet, PlaceRecord, TrainingSet

__all__ = [
    "CloudSettings",
    "EvaluationSet",
    "PlaceData",
    "PlaceRecord",
    "TrainingSet",
    "create_dataset",
    "dataset_settings",
    "dataset_views",
    "list_datasets",
]

DATASETS = {
    "oxford": "datasets.oxford:OxfordData",
    "oxfordadafusion": "datasets.oxford:OxfordAdafusionData",
    "boreas": "datasets.boreas:BoreasData",
    "frames": "datasets.frames:FramesData",
    "demo": "datasets.demo:DemoData",
    "demo_poses": "datasets.demo_variants:DemoPosesData",
    "demo_landmarks": "datasets.demo_variants:DemoLandmarksData",
    "demo_videos": "datasets.demo_variants:DemoVideosData",
    "images": "datasets.image_folder:ImagesData",
    "sequences": "datasets.sequences:SequencesData",
    "vprice": "datasets.sequences:SequencesData",
    "nordland": "datasets.nordland:NordlandData",
    "kitti": "datasets.kitti:KittiData",
    "pitts30k": "datasets.pittsburgh:Pitts30kData",
    "pitts250k": "datasets.pittsburgh:Pitts250kData",
    "tokyo247": "datasets.tokyo:Tokyo247Data",
    "tokyotm": "datasets.tokyo:TokyoTMData",
    "cambridge": "datasets.cambridge:CambridgeData",
    "7scenes": "datasets.seven_scenes:SevenScenesData",
    "gldv2": "datasets.google_landmarks:GoogleLandmarksData",
    "roxford5k": "datasets.revisited:ROxford5kData",
    "rparis6k": "datasets.revisited:RParis6kData",
    "svd": "datasets.svd:SVDData",
}


def list_datasets() -> list[str]:
    """The names :func:`create_dataset` knows."""
    return list(DATASETS)


def create_dataset(name: str, **settings: Any) -> PlaceData:
    """The data set ``name``; ``settings`` are those of :func:`dataset_settings`. Missing folders raise UserError."""
    accepted = dataset_settings(name)
    for setting in settings:
        if setting not in accepted:
            raise unknown_name(f"setting of data set {name}", setting, accepted)
    data: PlaceData = _class(name)(**settings)
    data.settings = settings
    return data


def dataset_settings(name: str) -> tuple[str, ...]:
    """The setting names the data set accepts: the parameters of its class."""
    return tuple(inspect.signature(_class(name)).parameters)


def dataset_views(name: str) -> str:
    """The data set's own way to crop, augment and normalise images: a name of :data:`datasets.views.VIEWS`."""
    return _class(name).views


def _class(name: str) -> type[PlaceData]:
    if name not in DATASETS:
        raise unknown_name("data set", name, DATASETS)
    module, attribute = DATASETS[name].split(":")
    found: type[PlaceData] = getattr(importlib.import_module(module), attribute)
    return found
