"""From options to the things a run is made of: data set, networks, losses, device."""

import logging
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import torch

from distilplace import datasets, losses, models
from distilplace.common.errors import UserError
from distilplace.common.inputs.folder_flags import name_folder
from distilplace.common.randomness import forked_random_state
from distilplace.common.shares import asked_for
from distilplace.datasets.base import PlaceData
from distilplace.datasets.io.images import parse_image_size
from distilplace.datasets.loading import Rates
from distilplace.datasets.records import Benchmark, EvaluationSet, TrainingSet
from distilplace.datasets.sampling.splitting import Split, split
from distilplace.engine import processes
from distilplace.engine.options import DataOptions, ModelOptions, RunOptions, TrainOptions
from distilplace.losses.combined import with_terms
from distilplace.losses.distiller import Distiller
from distilplace.losses.tasks.task_loss import TaskLoss
from distilplace.losses.terms import term_settings
from distilplace.models import PlaceNetwork
from distilplace.models.checkpoints import load_weights, read_metadata
from distilplace.models.head import SETTING, head_in

LOG = logging.getLogger("distilplace")
STAGES = ("layer1", "layer2", "layer3")  # what an image network has, for asking a method whether it wants maps at all


def build_data(options: DataOptions) -> PlaceData:
    """The data set that the options name; missing folders and files are a :class:`UserError`."""
    return _data(options, options.dataset)


def build_test_data(options: DataOptions, training: PlaceData | None = None) -> PlaceData:
    """The data set that is tested: ``--test_dataset``, else the one that trains (``training``, where it is open)."""
    if options.test_dataset is None:
        return _tested(options, training or build_data(options))
    elsewhere = options.model_copy(update={"dataset_folder": options.test_folder})
    return _tested(options, _data(elsewhere, options.test_dataset, flag="--test_folder"))


def _tested(options: DataOptions, data: PlaceData) -> PlaceData:
    """``data`` with queries of their own size, where that was asked for."""
    if options.query_image_size is not None:
        if not data.sized_queries:
            raise UserError(
                f"--query_image_size: in data set {data.name} queries are database images too; omit it, or give "
                "--image_size"
            )
        data.query_resize = parse_image_size(options.query_image_size)
    return data


def build_named_data(options: DataOptions, name: str, flag: str) -> PlaceData:
    """The data set ``name`` in the options' folder; ``flag`` is the option that sets this folder, for messages."""
    return _data(options, name, flag)


def data_settings(options: DataOptions, name: str) -> dict[str, Any]:
    """Settings of ``create_dataset`` for a data set called ``name``."""
    accepted = datasets.dataset_settings(name)
    prefix = {"boreas": "boreas", "frames": "frames"}.get(name, "oxford")
    values: dict[str, Any] = dict(options)
    values["kitti_train_sequences"] = options.kitti_train_sequences or None
    values["quantization_size"] = values[f"{prefix}_quantization_size"]
    values["n_points"] = {"boreas": options.n_points_boreas, "frames": options.frames_points}.get(name)
    return {key: values[key] for key in accepted if values.get(key) is not None or key == "image_lidar_k"}


def _data(options: DataOptions, name: str, flag: str = "--dataset_folder") -> PlaceData:
    accepted, settings = datasets.dataset_settings(name), data_settings(options, name)
    if "dataset_folder" in accepted and options.dataset_folder is None and not name.startswith("demo"):
        raise UserError(
            f"no folder for data set {name}: give {flag}, set it in paths.yaml beside train.py, "
            f"or set DISTILPLACE_{flag.removeprefix('--').upper()}"
        )
    if options.dataset_folder is not None:
        name_folder(options.dataset_folder, flag)
    data = datasets.create_dataset(name, **settings)
    if options.image_size is not None:
        data.resize = parse_image_size(options.image_size)
    data.normalisation = options.normalisation
    data.views = options.views or data.views
    data.crop_size = options.crop_size or data.crop_size
    return data


def split_validation(options: TrainOptions, data: PlaceData, everything: TrainingSet, test: Benchmark) -> Split:
    """Training places and those held back to choose the epoch by."""
    return split_share(options, data, everything, test, options.val_fraction)


def split_share(options: DataOptions, data: PlaceData, everything: TrainingSet, test: Benchmark, share: float) -> Split:
    """Training places and ``share`` of them to validate on: the set's own validation part, else a cut one; 0: none."""
    published = data.validation_set() if share > 0 else None
    if published is not None:
        places = len(published.distinct_records())
        return Split(everything, published, f"validation: the data set's own part, {places} places")
    held = data.validation_split(share) if share > 0 else None
    if held is not None:
        places = len(held[1].distinct_records())
        note = f"validation: {places} of {len(everything)} training images, {len(held[0])} left to train on"
        return Split(*held, note)
    if share > 0 and not data.metric_positions:
        note = "no validation split: this set's places have no positions to cut one by; the last epoch is kept"
        return Split(everything, None, note)
    return cut_stretch(options, data, everything, test, share)


def cut_stretch(options: DataOptions, data: PlaceData, training: TrainingSet, test: Benchmark, share: float) -> Split:
    """A stretch of the route held back: ``share`` of the training places, under the radius of the test."""
    radius, unit = (test.radius, test.unit) if isinstance(test, EvaluationSet) else (25.0, "m")
    buffer = data.validation_buffer
    if unit == "m" and (given := data_settings(options, options.dataset).get("negative_radius")) is not None:
        buffer = given
    return split(training, share, buffer=buffer, eval_radius=radius, unit=unit)


def rates_of(options: TrainOptions) -> Rates:
    """How strongly training images are augmented."""
    return options.bcs_aug_rate, options.hue_aug_rate, options.erasing_aug_rate


def teacher_settings(options: ModelOptions, name: str) -> dict[str, Any]:
    """Settings of ``create_model`` for a teacher called ``name``."""
    cloud = {
        "planes": _ints(options.minklocmm_cloud_planes),
        "layers": _ints(options.minklocmm_cloud_layers),
        "num_top_down": options.minklocmm_cloud_topdown,
    }
    fused = {
        "image_fe": options.minklocmm_image_fe,
        "image_fe_dim": options.minklocmm_image_fe_dim,
        "cloud_fe_dim": options.minklocmm_cloud_fe_dim,
        "cloud_planes": cloud["planes"],
        "cloud_layers": cloud["layers"],
        "cloud_topdown": cloud["num_top_down"],
        "image_useallstages": options.minklocmm_image_useallstages,
        "image_pool": options.teacher_pool or options.pool,
    }
    own_width = None if models.keeps_its_width(name) else options.student_output_dim
    image = {
        "output_dim": options.teacher_output_dim or own_width,
        "useallstages": options.minklocmm_image_useallstages,
        "clusters": options.clusters,
        "trainable_from": options.trainable_from,
        "dropout": options.dropout,
    }
    common = {
        "pool": options.teacher_pool or options.pool,
        "pretrained": options.pretrained,
        "feature_size": options.minklocmm_cloud_fe_dim,
        "sparse_backend": options.sparse_backend,
    }
    return _accepted(name, {**fused, **cloud, **image, **common, **_given(options)})


def student_settings(options: ModelOptions, name: str) -> dict[str, Any]:
    """Settings of ``create_model`` for a student called ``name``."""
    values = {
        "output_dim": options.student_output_dim,
        "feature_size": options.student_output_dim,
        "planes": _ints(options.student_minkloconly_planes),
        "layers": _ints(options.student_minkloconly_layers),
        "num_top_down": options.student_minkloconly_topdown,
        "useallstages": options.useallstages,
        "clusters": options.clusters,
        "trainable_from": options.trainable_from,
        "dropout": options.dropout,
        "pool": options.pool,
        "pretrained": options.pretrained,
        "sparse_backend": options.sparse_backend,
    }
    return _accepted(name, {**values, **_given(options)})


def learner(options: TrainOptions) -> tuple[str, dict[str, Any]]:
    """Name and settings of the network that ``--train_mode`` names."""
    if options.train_mode == "train_student":
        return options.student_model, student_settings(options, options.student_model)
    return options.model[0], teacher_settings(options, options.model[0])


def build_network(name: str, settings: dict[str, Any], *, seed: int, weights: str | None = None) -> PlaceNetwork:
    """A network whose random start depends on the seed alone; ``weights`` replaces that start, and brings its head."""
    if weights is not None:
        start = {"pretrained": "none"} if "pretrained" in settings else {}
        settings = {**settings, **start, SETTING: head_in(read_metadata(weights))}
    with forked_random_state("network", seed, name):
        network = models.create_model(name, **settings)
    if weights is not None:
        report = load_weights(network, Path(weights))
        if report.skipped:
            LOG.info("%s", report)
    elif settings.get("pretrained", "none") not in models.STARTS:
        LOG.info("%s starts from %s", name, settings["pretrained"])
    return network


def build_distiller(options: TrainOptions) -> Distiller | None:
    """The distillation method with those of the options that it knows, and the terms that ``--kd`` adds; None: none."""
    if options.train_mode == "train_teacher":
        return None
    values = options.model_dump()
    known = losses.distiller_settings(options.distil_method)
    method = None
    if options.distil_method == "nokd" and not options.kd:
        return None
    if options.distil_method != "nokd":
        chosen = {name: values[name] for name in known if name in values}
        with forked_random_state("distiller", options.seed):
            method = losses.create_distiller(options.distil_method, **chosen)
    added = {name: values[name] for name in term_settings() if name in values}
    return with_terms(method, options.kd, auto_scale=options.auto_scale, seed=options.seed, **added)


def distilled_live(distiller: Distiller | None) -> str | None:
    """What a method distils that teachers must be run in every step for; None where a store of embeddings will do."""
    if distiller is None:
        return None
    if distiller.teacher_maps(STAGES):
        return "feature maps"
    return "outputs for the student's own crops" if distiller.same_inputs else None


def build_task_loss(options: TrainOptions) -> TaskLoss:
    """The task loss with those of the options that it knows."""
    known = losses.task_loss_settings(options.loss)
    values = options.model_dump()
    with forked_random_state("task loss", options.seed):
        return losses.create_task_loss(options.loss, **{name: values[name] for name in known if name in values})


def quantizer_for(requires: Collection[str]) -> Callable[..., Any] | None:
    """The sparse engine's quantisation where batches must hold clouds; otherwise None, and no engine is imported."""
    if "coords" not in requires:
        return None
    from distilplace.models.sparse import quantize

    return quantize


def build_fabric(options: RunOptions) -> Any:
    """Lightning Fabric on one device, or on one for each process of a ``torchrun``."""
    from lightning_fabric import Fabric

    kind = options.device_kind()
    if asked_for() > 1:
        if options.cuda:
            raise UserError(f"--cuda {options.cuda}: torchrun gives every process a GPU of its own; omit it")
        return processes.start(kind, options.precision)
    if kind == "cuda" and options.cuda >= torch.cuda.device_count():
        raise UserError(
            f"--cuda {options.cuda}: this machine shows {torch.cuda.device_count()} GPUs; try --accelerator cpu"
        )
    devices: Any = [options.cuda] if kind == "cuda" else 1
    return Fabric(accelerator=kind, devices=devices, precision=options.precision)


def _given(options: ModelOptions) -> dict[str, Any]:
    """Settings whose default is each network's own."""
    return {} if options.gem_p is None else {"gem_p": options.gem_p}


def _accepted(name: str, values: dict[str, Any]) -> dict[str, Any]:
    known = models.model_settings(name)
    return {key: value for key, value in values.items() if key in known}


def _ints(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("_"))
