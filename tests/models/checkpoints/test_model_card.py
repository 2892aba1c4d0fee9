"""A weights file that says what it is: written, completed, verified, given its test scores; damaged in every way."""

import json
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from distilplace.common.errors import UserError
from distilplace.common.tensor_files import HASH
from distilplace.models.checkpoints import add_scores, load_weights, read_metadata, read_weights, save_weights
from distilplace.runtime.model_card import KEY, LONGEST, ModelCard
from distilplace.runtime.preprocessing import Preprocessing

CARD = ModelCard(
    role="student",
    model="resnet18",
    settings={"output_dim": 8, "pretrained": "none"},
    preprocessing=Preprocessing().to_dict(),
    embedding={"width": 8, "metric": "cosine", "unit": False},
    dataset="demo",
    scores={"validation": {"recall@1": 50.0, "recall@5": None}},
    licence="Apache-2.0",
)


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Linear(3, 2)


@pytest.fixture
def path(tmp_path):
    return save_weights(network(), tmp_path / "best.safetensors", CARD)


def text_of(path):
    with safe_open(path, framework="pt") as stream:
        return stream.metadata()


def rewritten(path, **entries):
    """The file with other metadata, under no hash of ours, as a foreign program would write it; None removes."""
    with safe_open(path, framework="pt") as stream:
        tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
        text = {name: value for name, value in stream.metadata().items() if name != HASH}
    save_file(tensors, path, {name: value for name, value in {**text, **entries}.items() if value is not None})
    return path


def test_the_file_says_what_it_is(path):
    card = read_weights(path).card
    assert replace(card, tensors_sha256="", created_by="") == CARD
    assert card.created_by.startswith("distilplace ")
    stored = json.loads(text_of(path)[KEY])
    assert stored["format"] == 1
    assert stored["fingerprint"] == card.fingerprint
    assert read_metadata(path) == stored
    assert load_weights(network(1), path).metadata == stored


def test_the_fingerprint_tells_embedding_spaces_apart(tmp_path, path):
    def fingerprint(card=CARD, seed=0, **changes):
        saved = save_weights(network(seed), tmp_path / "other.safetensors", replace(card, **changes))
        return read_weights(saved).card.fingerprint

    own = read_weights(path).card.fingerprint
    assert len(own) == 64
    same = [fingerprint(), fingerprint(dataset="oxford"), fingerprint(scores={}), fingerprint(licence="other")]
    same += [fingerprint(settings={**CARD.settings, "pretrained": "imagenet"})]
    same += [fingerprint(preprocessing=Preprocessing(trained_size=(4, 4)).to_dict())]
    assert {*same} == {own}
    other = [fingerprint(seed=1), fingerprint(model="resnet34"), fingerprint(settings={"output_dim": 8, "gem_p": 1.0})]
    other += [fingerprint(preprocessing=Preprocessing(upright=True).to_dict())]
    assert len({own, *other}) == 5


def test_test_scores_are_added_and_the_tensors_stay(path):
    before = read_weights(path)
    add_scores(path, "test", {"recall@1": 40.0, "recall@25": None})
    after = read_weights(path)
    assert after.card.scores == {**CARD.scores, "test": {"recall@1": 40.0, "recall@25": None}}
    assert after.card.fingerprint == before.card.fingerprint
    assert all(torch.equal(after.state.tensors[name], value) for name, value in before.state.tensors.items())
    once = path.read_bytes()
    add_scores(path, "test", {"recall@1": 40.0, "recall@25": None})
    assert path.read_bytes() == once


def test_a_mean_image_lies_beside_the_weights(tmp_path):
    mean = np.random.default_rng(0).uniform(0, 255, (4, 5, 3)).astype(np.float32)
    card = replace(CARD, preprocessing=Preprocessing(mean_image=mean).to_dict())
    path = save_weights(network(), tmp_path / "a.safetensors", card, mean)
    found = read_weights(path)
    assert {*found.state.tensors} == {"weight", "bias"}
    assert np.array_equal(found.mean_image, mean)
    load_weights(network(1), path)
    assert np.array_equal(Preprocessing.from_dict(found.card.preprocessing, "x", found.mean_image).mean_image, mean)


def test_flat_facts_and_foreign_files_are_read_as_before(tmp_path):
    facts = {"model": "resnet18", "epoch": "3", "settings": "{'gem_p': 3.0}"}
    path = save_weights(network(), tmp_path / "a.safetensors", facts)
    assert read_weights(path).card is None
    assert load_weights(network(1), path).metadata == facts
    save_file(network().state_dict(), tmp_path / "b.safetensors")
    assert read_weights(tmp_path / "b.safetensors")[1:] == ({}, None, None)
    with pytest.raises(UserError, match="does not say what it holds"):
        add_scores(path, "test", {})


def test_a_flipped_bit_anywhere_is_one_clear_line(path):
    whole = path.read_bytes()
    told = []
    for position in range(0, len(whole), 7):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        with suppress(UserError):
            try:
                read_weights(path)
            except UserError as error:
                told.append(str(error))
                raise
    assert len(told) > 0.95 * len(range(0, len(whole), 7))  # spaces between the header's words mean nothing
    assert all("best.safetensors" in line for line in told)


def test_a_truncated_file_is_one_clear_line(path):
    whole = path.read_bytes()
    for length in (0, 1, 7, 8, 9, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"best\.safetensors"):
            read_weights(path)


def test_changed_tensors_are_noticed_without_our_hash(path):
    rewritten(path)
    read_weights(path)
    with safe_open(path, framework="pt") as stream:
        tensors, text = {name: stream.get_tensor(name) for name in ("weight", "bias")}, stream.metadata()
    tensors["bias"][0] += 1
    save_file(tensors, path, text)
    with pytest.raises(UserError, match="its tensors do not match their hash"):
        read_weights(path)


def changed(path, **values):
    stored = json.loads(text_of(path)[KEY])
    return json.dumps({name: value for name, value in {**stored, **values}.items() if value != "absent"})


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"format": 2}, "update distilplace"),
        ({"format": "1"}, "update distilplace"),
        ({"model": "resnet34"}, "fingerprint"),
        ({"settings": {"output_dim": 10**9}}, "fingerprint"),
        ({"fingerprint": "0" * 64}, "fingerprint"),
        ({"settings": "{'gem_p': 3.0}"}, "settings is no set"),
        ({"settings": "absent"}, "lacks the entry 'settings'"),
        ({"extra": 1}, "unknown entry 'extra'"),
        ({"role": "judge"}, "role 'judge'"),
        ({"role": ["student"]}, "role is no text"),
        ({"dataset": "a" * 3000}, "dataset is no text"),
        ({"scores": {"test": 3}}, "scores are no sets"),
        ({"embedding": {"width": 0, "metric": "cosine", "unit": True}}, "width"),
        ({"embedding": {"width": 8, "metric": "l1", "unit": True}}, "metric 'l1'"),
        ({"embedding": {"width": 8, "metric": ["cosine"], "unit": 1}}, "metric"),
        ({"embedding": {"width": 8}}, "lacks the entry"),
        ({"tensors_sha256": "absent"}, "hash"),
    ],
)
def test_a_wrong_description_is_told_in_one_line(path, values, told):
    rewritten(path, **{KEY: changed(path, **values)})
    with pytest.raises(UserError, match=told) as raised:
        read_weights(path)
    assert str(raised.value).startswith(f"weights file {path}")


@pytest.mark.parametrize(
    "text", ["{", "[" * 100_000, "1" * 100_000, '{"format": 1}', '{"a": "' + "b" * LONGEST + '"}', "__import__('os')"]
)
def test_what_is_no_description_is_told_in_one_line(path, text):
    rewritten(path, **{KEY: text})
    with pytest.raises(UserError, match=r"damaged|lacks") as raised:
        read_weights(path)
    assert len(str(raised.value)) < 700


def test_numbers_that_json_has_not_are_never_written(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        save_weights(network(), tmp_path / "a.safetensors", replace(CARD, scores={"test": {"a": float("nan")}}))
    assert not (tmp_path / "a.safetensors").exists()
