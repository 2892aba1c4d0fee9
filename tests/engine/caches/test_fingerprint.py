"""Whatever can change an input, or the network, makes caches start over; whatever cannot keeps them.

Every row of the tables changes one thing; the fingerprints of the four kinds of caches are compared with those before.
"""

import os
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from distilplace.common.randomness import forked_random_state
from distilplace.datasets.io.images import ImageSize
from distilplace.datasets.readers.poses.cambridge import CambridgeData
from distilplace.engine.assembly import Parts
from distilplace.engine.building import build_data, build_test_data, rates_of, teacher_settings
from distilplace.engine.caches.clusters import clusters_made_from
from distilplace.engine.caches.fingerprint import Augmented, of_frames, of_network
from distilplace.engine.caches.reduction import pca_images, pca_made_from
from distilplace.engine.caches.whitening import chosen_records, whitening_made_from
from distilplace.engine.context import Context
from distilplace.engine.options import EvaluateOptions, TrainOptions
from distilplace.engine.options.command_line import parse
from distilplace.engine.teachers.loading import TeacherOpener
from distilplace.models import create_model
from tests.miniature_frames import straight, write_run
from tests.miniature_images import numbered, write_images
from tests.miniature_poses import write_cambridge

RADII = ["--positive_radius", "5", "--negative_radius", "10", "--eval_radius", "5"]
ALL = {"store", "whitening", "pca", "clusters"}


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """Two runs along one street, two teachers."""
    home = tmp_path_factory.mktemp("caches")
    for number, run in enumerate(("a", "b")):
        write_run(home / "frames" / run, straight(120, 6, northing=number), points=20, image_size=(8, 6), seed=number)
    for name in ("t", "other"):
        (home / f"{name}.safetensors").write_bytes(name.encode())
    return home


@pytest.fixture(scope="module")
def netvlad() -> torch.nn.Module:
    """One trunk for all rows: its weights do not change with options that change no weights."""
    with forked_random_state("netvlad"):
        return create_model("mobilenetv3_smallnetvlad", clusters=4, pretrained="none")


@pytest.fixture(scope="module")
def unchanged(world, netvlad):
    """Fingerprints of unchanged files, by flags."""
    return cache(lambda *flags: fingerprints(world, list(flags), netvlad))


def fingerprints(world: Path, flags: list[str], network: torch.nn.Module) -> dict[str, str]:
    """Digest of each kind of cache for the options of a student run and of an evaluation."""
    common = ["--dataset", "frames", "--dataset_folder", str(world / "frames"), *RADII, "--accelerator", "cpu"]
    own = ["--teacher_weights_path", str(world / "t.safetensors"), "--whiten_dim", "8"]
    options = parse(TrainOptions, [*common, *own, *flags], home=world, environment={})
    context = Context.open(options)
    data, tested = context.data, build_test_data(options, context.data)
    training, weights = data.training_set(), Path(options.teacher_weights_path[0])
    opener = TeacherOpener(context, context.testing(tested), training.records, tested.evaluation_set(), None)
    image_teacher = "resnet18" if options.model == ["minklocmmcat"] else options.model[0]
    chosen = chosen_records(data.whitening_records(training.records, options.seed), options)
    augmented = Augmented(options.seed, rates_of(options))
    shared = {
        name: value
        for name, value in options.model_dump().items()
        if name in EvaluateOptions.model_fields and name != "weights"
    }
    evaluated = EvaluateOptions(**shared, weights=str(weights), pca=options.whiten_dim)
    settings = teacher_settings(options, image_teacher)
    pca_data, pca_records, problem = pca_images(evaluated, {}, data)
    assert not problem
    parts = Parts(training, network, None, None, [], context)
    found = {
        "store": opener._made_from(options.model[0], weights),
        "whitening": whitening_made_from(context, image_teacher, weights, chosen, augmented),
        "pca": pca_made_from(evaluated, image_teacher, settings, pca_data, pca_records),
        "clusters": clusters_made_from(parts),
    }
    return {name: each.digest() for name, each in found.items()}


def recolour(path: Path) -> None:
    """Another picture of the same number of bytes and the same times, as ``cp -p`` over it would leave."""
    before = path.stat()
    with Image.open(path) as image:
        pixels = np.asarray(image).copy()
    size = len(path.read_bytes())
    for value in range(256):
        pixels[0, 0, 0] = value
        Image.fromarray(pixels).save(path, compress_level=0)
        if value == 0:
            size = len(path.read_bytes())
    assert path.stat().st_size == size
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def other_pictures(folder: Path) -> None:
    for number, run in enumerate(("a", "b")):
        shutil.rmtree(folder / run)
        write_run(folder / run, straight(120, 6, northing=number), points=20, image_size=(8, 6), seed=number + 7)


def first_camera(folder: Path, part: str, world: Path) -> Path:
    options = parse(
        TrainOptions, ["--dataset", "frames", "--dataset_folder", str(folder), *RADII], home=world, environment={}
    )
    data = build_data(options)
    records = data.training_set().records if part == "train" else data.evaluation_set().distinct_records()
    return records[0].images[0]


AUGMENTED = ["--cache_aug", "True"]
OPTIONS: list[tuple[list[str], list[str], set[str]]] = [  # always, changed, whose caches start over
    ([], ["--views", "landmarks"], ALL),
    (["--views", "landmarks"], ["--crop_size", "6"], ALL),
    ([], ["--views", "svd"], ALL),
    ([], ["--image_size", "16x16"], ALL),
    (["--image_size", "16x16"], ["--image_size", "max16"], ALL),
    ([], ["--normalisation", "caffe"], ALL),
    ([], ["--normalisation", "raw"], ALL),
    ([], ["--precision", "bf16-mixed"], ALL),
    ([], ["--scales", "1", "0.5"], {"store", "pca"}),
    ([], ["--frames_quantization_size", "0.25"], {"store"}),
    ([], ["--frames_points", "10"], {"store"}),
    ([], AUGMENTED, {"store"}),
    (AUGMENTED, ["--bcs_aug_rate", "0.4"], {"store", "whitening"}),
    (AUGMENTED, ["--hue_aug_rate", "0.4"], {"store", "whitening"}),
    (AUGMENTED, ["--erasing_aug_rate", "0"], {"store", "whitening"}),
    (AUGMENTED, ["--seed", "8"], {"store", "whitening"}),
    (AUGMENTED, ["--image_lidar_k", "2"], {"store", "whitening"}),
    ([], ["--model", "minklocmmadd"], {"store", "whitening", "pca"}),
    ([], ["--minklocmm_cloud_planes", "16_32_32"], {"store"}),
    ([], ["--teacher_pool", "mean"], {"store", "whitening", "pca"}),
    ([], ["--student_output_dim", "128"], {"whitening", "pca"}),
    ([], ["--whiten_dim", "4"], {"whitening", "pca"}),
    ([], ["--whiten_samples", "5"], {"whitening"}),
    ([], ["--teacher_weights_path", "{other}"], {"store", "whitening", "pca"}),
    ([], ["--test_dataset", "frames", "--test_folder", "{second}"], {"store"}),
    ([], ["--negative_radius", "25"], ALL),  # other frames train and test
]


@pytest.mark.parametrize(
    ("always", "changed", "kinds"),
    OPTIONS,
    ids=lambda value: " ".join(sorted(value) if isinstance(value, set) else value) or "plain",
)
def test_an_option_that_changes_an_input_starts_the_right_caches_over(
    world, netvlad, unchanged, tmp_path, always, changed, kinds
):
    if "{second}" in changed:
        shutil.copytree(world / "frames", tmp_path / "second")
        recolour(first_camera(tmp_path / "second", "test", world))
    places = {"{other}": str(world / "other.safetensors"), "{second}": str(tmp_path / "second")}
    before = unchanged(*always)
    after = fingerprints(world, [*always, *(places.get(word, word) for word in changed)], netvlad)
    assert {kind for kind in ALL if before[kind] != after[kind]} == kinds


FILES = {
    "another folder of the same names": (lambda folder, world: other_pictures(folder), ALL),
    "one training image, same size and time": (
        lambda folder, world: recolour(first_camera(folder, "train", world)),
        ALL,
    ),
    "one test image": (lambda folder, world: recolour(first_camera(folder, "test", world)), {"store"}),
    "one cloud": (
        lambda folder, world: np.ones((20, 3), "<f4").tofile(sorted((folder / "a" / "cloud").iterdir())[0]),
        {"store"},
    ),
    "a frame less": (lambda folder, world: drop_row(folder / "a" / "poses.csv"), ALL),
}


def drop_row(path: Path) -> None:
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:2] + lines[3:]) + "\n")


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_changed_starts_the_right_caches_over(world, netvlad, unchanged, tmp_path, name):
    change, kinds = FILES[name]
    shutil.copytree(world / "frames", tmp_path / "frames")
    before = unchanged()
    change(tmp_path / "frames", world)
    after = fingerprints(world, ["--dataset_folder", str(tmp_path / "frames")], netvlad)
    assert {kind for kind in ALL if before[kind] != after[kind]} == kinds


NEUTRAL = [
    ["--num_workers", "2"],
    ["--val_batch_size", "3"],
    ["--train_batch_size", "8", "--train_batch_split_size", "4"],
    ["--logdir", "elsewhere", "--exp_name", "x", "--tryid", "4"],
    ["--sparse_backend", "torch", "--sparse_maps", "workers"],
    ["--epochs", "3", "--image_lr", "0.1", "--optimizer", "SGD", "--milestones", "2"],
    ["--distil_method", "rkdg", "--kd", "pkt:1", "--rkdgloss_weight", "3"],
    ["--student_model", "resnet34", "--pretrained", "none", "--useallstages", "True"],
    ["--eval_radius", "4"],
    ["--positive_radius", "6.5"],
    ["--val_fraction", "0"],
    ["--bcs_aug_rate", "0.5"],
    ["--seed", "9"],
    ["--image_lidar_k", "2"],
    ["--frames_map", "shared"],
    ["--dataset_folder", "{copy}"],
]


@pytest.mark.parametrize("changed", NEUTRAL, ids=" ".join)
def test_what_changes_no_input_keeps_every_cache(world, netvlad, unchanged, tmp_path, changed):
    if "{copy}" in changed:
        shutil.copytree(world / "frames", tmp_path / "copy")
        for path in (tmp_path / "copy").rglob("*"):
            path.touch()
    changed = [str(tmp_path / "copy") if word == "{copy}" else word for word in changed]
    before, after = unchanged(), fingerprints(world, changed, netvlad)
    drawn = {"whitening"} if {"--bcs_aug_rate", "--seed", "--image_lidar_k"} & set(changed) else set()
    assert {kind for kind in ALL if before[kind] != after[kind]} == drawn  # a whitening is fitted on augmented images


def test_clusters_depend_on_the_trunk_and_not_on_the_head(world, netvlad, unchanged):
    before = unchanged()
    state = {name: value.clone() for name, value in netvlad.state_dict().items()}
    for part, kinds in (("net_vlad.centroids", set()), ("base_model.base.0.0.weight", {"clusters"})):
        with torch.no_grad():
            netvlad.get_parameter(part).add_(1)
        after = fingerprints(world, [], netvlad)
        netvlad.load_state_dict(state)
        assert {kind for kind in ALL if before[kind] != after[kind]} == kinds


def test_settings_of_a_start_or_of_training_are_none_of_a_network_with_given_weights():
    one = of_network(
        "net", {"output_dim": 8, "pretrained": "none", "dropout": 0.5, "sparse_backend": "auto"}, "w", "32"
    )
    other = of_network("net", {"output_dim": 8, "trainable_from": "conv5", "sparse_backend": "torch"}, "w", "32")
    assert one == other
    assert one != of_network("net", {"output_dim": 8, "gem_p": 1.0}, "w", "32")


def facts(data: Any, **settings: Any) -> str:
    return of_frames("x", data, data.evaluation_set().distinct_records(), ("images",), **settings).digest()


def test_the_mean_image_counts_whatever_its_files_name(tmp_path):
    scene = write_cambridge(tmp_path / "Ring", train={"seq1": 3}, test={"seq2": 1}, size=(48, 27))
    data = CambridgeData(scene)
    data.resize = ImageSize(9, 16)
    before = facts(data)
    for name, value, same in (("own.npy", data.mean_image, True), ("other.npy", data.mean_image + 1, False)):
        np.save(tmp_path / name, value)
        other = CambridgeData(scene, mean_image_path=tmp_path / name)
        other.resize = ImageSize(9, 16)
        assert (facts(other) == before) == same


def test_the_size_of_queries_counts_with_the_frames_that_are_queries(tmp_path):
    from distilplace.datasets import create_dataset

    folder = write_images(tmp_path, numbered(range(6)), numbered(range(6)))
    data = create_dataset("images", dataset_folder=folder, frame_tolerance=0)
    database, queries = data.evaluation_set().database[0], data.evaluation_set().queries[1]
    before = [of_frames("x", data, records, ("images",)).digest() for records in (database, queries)]
    data.query_resize = ImageSize(12)
    after = [of_frames("x", data, records, ("images",)).digest() for records in (database, queries)]
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, False]


def frames_of(world):
    """The two runs as a data set of their own."""
    flags = ["--dataset", "frames", "--dataset_folder", str(world / "frames"), *RADII]
    return build_data(parse(TrainOptions, flags, home=world, environment={}))


def test_a_setting_that_is_not_known_to_be_harmless_counts(world):
    data = frames_of(world)
    before = facts(data)
    data.settings = {**data.settings, "a_new_option": 3}
    assert facts(data) != before


def test_the_recipe_of_augmented_images_counts(world):
    data = frames_of(world)
    one, two = (facts(data, augmented=Augmented(7, (0.2, 0.1, 0.5), view)) for view in (0, 2))
    assert one != two
