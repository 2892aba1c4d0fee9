"""Teacher stores and whitenings augment as the options say (they drew with the default rates)."""

from pathlib import Path

import pytest
import torch

from distilplace.engine.caches import whitening
from distilplace.engine.caches.fingerprint import Fingerprint
from distilplace.engine.context import Context
from distilplace.engine.embedding import Embedder
from distilplace.engine.options import TrainOptions
from distilplace.engine.options.command_line import parse
from distilplace.engine.teachers import loading as teacher_loading
from distilplace.engine.teachers.loading import TeacherOpener
from tests.miniature_images import numbered, write_images

RATES = ["--bcs_aug_rate", "0.4", "--hue_aug_rate", "0.3", "--erasing_aug_rate", "0.25"]


class Network(torch.nn.Module):
    requires = ("images",)


@pytest.fixture
def asked(tmp_path, monkeypatch) -> list:
    """What embedders are asked for: title, seed, rates, recipe."""
    found = []

    def embed(self, network, records, title, augmented=None):
        found.append((title, *(augmented or ())))
        return [record.key for record in records], {"embedding": torch.randn(len(records), 4)}

    monkeypatch.setattr(Embedder, "embed", embed)
    monkeypatch.setattr(Embedder, "facts", lambda *_: {})
    return found


def opened(tmp_path: Path, *flags: str):
    folder = write_images(tmp_path / "images", numbered(range(12)), numbered(range(12)))
    where = [
        "--dataset",
        "images",
        "--dataset_folder",
        str(folder),
        "--frame_tolerance",
        "0",
        "--train_fraction",
        "0.5",
    ]
    options = parse(TrainOptions, [*where, *RATES, "--model", "resnet18", *flags], home=tmp_path, environment={})
    options = options.model_copy(update={"logdir": str(tmp_path / "logs")})
    return Context.open(options)


def test_a_store_of_augmented_inputs_uses_the_given_rates(tmp_path, asked, monkeypatch):
    monkeypatch.setattr(teacher_loading, "write_store", lambda *_: None)
    context = opened(tmp_path, "--cache_aug", "True")
    records, test = context.data.training_set().records, context.data.evaluation_set()
    opener = TeacherOpener(context, context, records, test, None)
    opener._fill("resnet18", tmp_path, Fingerprint(), Network())
    assert asked[0][1:3] == (7, (0.4, 0.3, 0.25))
    assert asked[1] == ("teacher on test places",)


@pytest.mark.parametrize(("views", "recipe"), [("place", 0), ("svd", 2)])
def test_a_whitening_is_fitted_with_the_given_rates_and_its_own_recipe(tmp_path, asked, views, recipe):
    context = opened(tmp_path, "--whiten_dim", "2", "--teacher_outputs", "live")
    context.data.views = views
    (tmp_path / "t").write_bytes(b"weights")
    arguments = (context, Network(), "resnet18", tmp_path / "t", context.data.training_set().records)
    first = whitening.fitted_whitening(*arguments)
    assert asked == [("training images, to whiten", 7, (0.4, 0.3, 0.25), recipe)]
    again = whitening.fitted_whitening(*arguments)
    assert len(asked) == 1  # read
    assert torch.equal(first.dvt, again.dvt)
