"""The PCA of ``evaluate.py --pca``: on whose images it is fitted, when its file is used again, and when refused."""

import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from distilplace.common.errors import UserError
from distilplace.datasets.loading import RATES
from distilplace.engine.building import build_fabric, build_test_data, rates_of
from distilplace.engine.caches.fingerprint import Augmented
from distilplace.engine.caches.reduction import whitening
from distilplace.engine.caches.whitening import chosen_records
from distilplace.engine.context import Context
from distilplace.engine.embedding import Embedder
from distilplace.engine.options import EvaluateOptions, TrainOptions
from distilplace.engine.options.command_line import parse
from distilplace.evaluation.retrieval.whitening import PCAWhitening
from tests.miniature_images import numbered, write_images

SETTINGS = {"output_dim": 12}


class Means(nn.Module):
    """Describes an image by the means of twelve of its parts."""

    requires = ("images",)

    def forward(self, batch, feature_maps=()):
        return {"embedding": nn.functional.adaptive_avg_pool2d(batch["images"], 2).flatten(1)}


@pytest.fixture
def world(tmp_path) -> Path:
    """Two image folders of the same names, and weights."""
    for name, start in (("own", 0), ("tested", 50)):
        write_images(
            tmp_path / name,
            {f"{n:04d}.png": start + n for n in range(20)},
            {f"{n:04d}.png": start + n for n in range(20)},
        )
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "best.safetensors").write_bytes(b"weights")
    return tmp_path


@pytest.fixture
def said(caplog):
    logging.getLogger("distilplace").propagate = True
    caplog.set_level("INFO", logger="distilplace")
    return lambda: caplog.messages[-1]


def reduce(world: Path, *flags: str, trained: dict | None = None):
    where = ["--dataset", "images", "--dataset_folder", str(world / "tested"), "--frame_tolerance", "0"]
    rest = ["--train_fraction", "0.5", "--pca", "3", "--accelerator", "cpu", "--model", "resnet18"]
    weights = ["--weights", str(world / "models" / "best.safetensors")]
    options = parse(EvaluateOptions, [*where, *rest, *weights, *flags], home=world, environment={})
    data = build_test_data(options)
    context = Context(options, data, build_fabric(options)).testing(data)
    return whitening(context, trained or {}, Means(), "resnet18", SETTINGS), context


def of_run(world: Path) -> dict[str, str]:
    return {"dataset": "images", "dataset_folder": str(world / "own")}


def slow(world: Path, folder: str, vectors: torch.Tensor, name: str = "images") -> torch.Tensor:
    """The PCA of the training images of a folder, from its definition."""
    flags = ["--dataset", name, "--dataset_folder", str(world / folder), "--frame_tolerance", "0"]
    options = parse(TrainOptions, [*flags, "--train_fraction", "0.5"], home=world, environment={})
    data = build_test_data(options)
    _, table = Embedder(Context(options, data, build_fabric(options))).embed(Means(), data.training_set().records, "x")
    return torch.from_numpy(PCAWhitening.fit(table["embedding"].numpy(), 3).transform(vectors.numpy()))


def test_it_is_fitted_on_the_runs_own_training_images_else_on_the_tested_sets(world, said):
    vectors = torch.rand(5, 12)
    found, _ = reduce(world, trained=of_run(world))
    torch.testing.assert_close(found(vectors), slow(world, "own", vectors))
    (world / "models" / "best.pca3.safetensors").unlink()
    found, _ = reduce(world)
    torch.testing.assert_close(found(vectors), slow(world, "tested", vectors))
    assert not torch.allclose(slow(world, "own", vectors), slow(world, "tested", vectors))


def test_the_runs_own_data_set_may_be_of_another_kind_than_the_tested_one(world):
    vectors, run = torch.rand(5, 12), {**of_run(world), "dataset": "sequences"}
    found, context = reduce(world, trained=run)
    assert context.data.name == "images"
    torch.testing.assert_close(found(vectors), slow(world, "own", vectors, "sequences"))
    assert not torch.allclose(slow(world, "own", vectors, "sequences"), slow(world, "tested", vectors))


def test_a_named_data_set_wins(world):
    vectors = torch.rand(5, 12)
    found, _ = reduce(world, "--pca_dataset", "images", "--pca_folder", str(world / "own"))
    torch.testing.assert_close(found(vectors), slow(world, "own", vectors))


def test_it_is_used_again_for_another_test_set_and_fitted_again_for_other_images(world, said):
    reduce(world, trained=of_run(world))
    assert "numbers from" in said()
    write_images(world / "third", numbered(range(9)), numbered(range(9)))
    reduce(world, "--dataset_folder", str(world / "third"), trained=of_run(world))
    assert said().startswith("PCA: read from")
    for flags in (["--image_size", "12x16"], ["--normalisation", "raw"], ["--pca_image_size", "10x10"]):
        reduce(world, *flags, trained=of_run(world))
        assert "numbers from" in said()
    reduce(world, trained=of_run(world))
    write_images(world / "own", {"0001.png": 99}, {"0001.png": 99})
    reduce(world, trained=of_run(world))
    assert "numbers from" in said()


def test_a_named_file_is_kept_read_and_refused_where_it_does_not_fit(world, said):
    flags = ["--pca_file", str(world / "pitts.safetensors")]
    found, _ = reduce(world, *flags, trained=of_run(world))
    again, _ = reduce(world, *flags, trained=of_run(world))
    assert said().startswith("PCA: read from")
    vectors = torch.rand(2, 12)
    assert torch.equal(found(vectors), again(vectors))
    with pytest.raises(UserError, match=r"fitted with other normalisation \(PCA images\).*omit --pca_file"):
        reduce(world, *flags, "--normalisation", "caffe", trained=of_run(world))
    (world / "models" / "best.safetensors").write_bytes(b"others")
    with pytest.raises(UserError, match="fitted with other weights"):
        reduce(world, *flags, trained=of_run(world))


def test_a_file_serves_where_its_images_are_absent_and_says_so(world, said):
    reduce(world, trained=of_run(world))
    (world / "own").rename(world / "gone")
    reduce(world, trained=of_run(world))
    assert "its images are not compared" in said()
    (world / "models" / "best.pca3.safetensors").unlink()
    with pytest.raises(UserError, match=r"no images to fit the PCA on .*--pca_dataset and --pca_folder"):
        reduce(world, trained=of_run(world))


@pytest.mark.parametrize("content", [b"", b"damaged", b"\xff" * 100])
def test_a_damaged_file_is_one_line_with_the_remedy(world, content):
    (world / "models" / "best.pca3.safetensors").write_bytes(content)
    with pytest.raises(UserError, match=r"is damaged .*remove it"):
        reduce(world)


def test_with_several_scales_it_is_fitted_on_unit_embeddings_of_one(world):
    found, context = reduce(world, "--scales", "1", "0.5")
    records = context.data.training_set().records
    _, table = Embedder(replace(context, scales=(1.0,))).embed(Means(), records, "x")
    units = nn.functional.normalize(table["embedding"], dim=1)
    expected = PCAWhitening.fit(units.numpy(), 3).transform(units.numpy())
    torch.testing.assert_close(found(units), torch.from_numpy(expected))


def test_options_of_the_pca_without_one_are_refused(world):
    with pytest.raises(UserError, match="--pca_folder is about the PCA"):
        parse(EvaluateOptions, ["--weights", "w", "--pca_folder", "d"], home=world, environment={})


def test_a_whitening_is_fitted_on_as_many_images_as_said_drawn_by_the_seed(world):
    flags = ["--dataset", "images", "--dataset_folder", str(world / "own"), "--frame_tolerance", "0"]
    options = parse(TrainOptions, [*flags, "--train_fraction", "0.5"], home=world, environment={})
    records = build_test_data(options).training_set().records
    few = options.model_copy(update={"whiten_samples": 4})
    first, other = chosen_records(records, few), chosen_records(records, few.model_copy(update={"seed": 8}))
    assert len(first) == 4
    assert first != other
    assert chosen_records(records, few) == first
    assert chosen_records(records, few.model_copy(update={"whiten_samples": 0})) == list(records)


def test_augmented_outputs_use_the_rates_that_were_given(world):
    """``--cache_aug`` and whitenings drew with the default rates whatever was asked for."""
    flags = ["--dataset", "images", "--dataset_folder", str(world / "own"), "--frame_tolerance", "0"]
    flags += ["--train_fraction", "0.5", "--bcs_aug_rate", "0", "--hue_aug_rate", "0", "--erasing_aug_rate", "0"]
    options = parse(TrainOptions, flags, home=world, environment={})
    data = build_test_data(options)
    embedder, records = Embedder(Context(options, data, build_fabric(options))), data.training_set().records
    _, clean = embedder.embed(Means(), records, "x")
    _, drawn = embedder.embed(Means(), records, "x", Augmented(7, RATES))
    _, unchanged = embedder.embed(Means(), records, "x", Augmented(7, rates_of(options)))
    assert not torch.allclose(clean["embedding"], drawn["embedding"], atol=1e-3)
    torch.testing.assert_close(clean["embedding"], unchanged["embedding"], rtol=1e-5, atol=1e-5)
