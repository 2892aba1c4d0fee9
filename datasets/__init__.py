"""Data sets by name. Nothing is read, and no optional library imported, before a data set is created."""

from distilplace.common.extras import require_training

require_training("distilplace.datasets")

import logging
from typing import Any

from distilplace.common.inputs.image_files import Alert
from distilplace.common.registry import Registry
from distilplace.datasets.base import PlaceData
from distilplace.datasets.records import CloudSettings, EvaluationSet, PlaceRecord, TrainingSet

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

LOG = logging.getLogger("distilplace.datasets")
DATASETS = Registry(
    "data set",
    {
        "oxford": "distilplace.datasets.readers.oxford.data:OxfordData",
        "oxfordadafusion": "distilplace.datasets.readers.oxford.data:OxfordAdafusionData",
        "boreas": "distilplace.datasets.readers.oxford.boreas:BoreasData",
        "frames": "distilplace.datasets.readers.frames.data:FramesData",
        "demo": "distilplace.datasets.readers.demo.data:DemoData",
        "demo_poses": "distilplace.datasets.readers.demo.variants:DemoPosesData",
        "demo_landmarks": "distilplace.datasets.readers.demo.variants:DemoLandmarksData",
        "demo_videos": "distilplace.datasets.readers.demo.variants:DemoVideosData",
        "images": "distilplace.datasets.readers.frames.image_folder:ImagesData",
        "sequences": "distilplace.datasets.readers.frames.sequences:SequencesData",
        "vprice": "distilplace.datasets.readers.frames.sequences:SequencesData",
        "nordland": "distilplace.datasets.readers.vpr.nordland:NordlandData",
        "kitti": "distilplace.datasets.readers.kitti.data:KittiData",
        "pitts30k": "distilplace.datasets.readers.vpr.pittsburgh:Pitts30kData",
        "pitts250k": "distilplace.datasets.readers.vpr.pittsburgh:Pitts250kData",
        "tokyo247": "distilplace.datasets.readers.vpr.tokyo:Tokyo247Data",
        "tokyotm": "distilplace.datasets.readers.vpr.tokyo:TokyoTMData",
        "cambridge": "distilplace.datasets.readers.poses.cambridge:CambridgeData",
        "7scenes": "distilplace.datasets.readers.poses.seven_scenes:SevenScenesData",
        "gldv2": "distilplace.datasets.readers.landmarks.google_landmarks:GoogleLandmarksData",
        "roxford5k": "distilplace.datasets.readers.landmarks.revisited:ROxford5kData",
        "rparis6k": "distilplace.datasets.readers.landmarks.revisited:RParis6kData",
        "svd": "distilplace.datasets.readers.landmarks.svd:SVDData",
    },
)


def list_datasets() -> list[str]:
    """The names :func:`create_dataset` knows."""
    return list(DATASETS)


def create_dataset(name: str, **settings: Any) -> PlaceData:
    """The data set ``name``; ``settings`` are those of :func:`dataset_settings`. Missing folders raise UserError."""
    data: PlaceData = DATASETS.create(name, **settings)
    data.settings = settings
    if alerts := [note for note in data.notes if isinstance(note, Alert)]:
        LOG.warning("data set %s: %s%s", name, alerts[0], f" (so in {len(alerts)} folders)" if alerts[1:] else "")
    return data


def dataset_settings(name: str) -> tuple[str, ...]:
    """The setting names the data set accepts: the parameters of its class."""
    return DATASETS.settings(name)


def dataset_views(name: str) -> str:
    """The data set's own way to crop, augment and normalise images: a name in ``views.VIEWS``."""
    views: str = DATASETS.load(name).views
    return views
