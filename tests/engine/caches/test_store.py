"""Teacher stores give back what was written by key; what does not fit, or is damaged, is refused with a remedy."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from distilplace.common.errors import UserError
from distilplace.common.files import sha256
from distilplace.engine.caches.fingerprint import Fingerprint
from distilplace.engine.caches.store import (
    LABELS,
    MANIFEST,
    OUTPUTS,
    OWN_HASH,
    _own_hash,
    compare_store,
    has_store,
    read_store,
    write_store,
)

KEYS = {"train": ["run/0", "run/1", "run/2"], "test": ["run/3", "run/4"]}


def fingerprint(**changes) -> Fingerprint:
    """Of three training and two test frames; a change replaces a fact, or a list."""
    facts = {"model": "net", "weights": "abc", "views (training frames)": "place"}
    lists = {f"keys ({LABELS[part]})": keys for part, keys in KEYS.items()}
    lists |= {f"cloud files ({LABELS[part]})": [f"hash of {key}" for key in keys] for part, keys in KEYS.items()}
    for name, value in changes.items():
        (lists if isinstance(value, list) else facts)[name] = value
    return Fingerprint(facts, lists)


@pytest.fixture
def store(tmp_path) -> Path:
    tables = {part: {"embedding": torch.randn(len(keys), 4)} for part, keys in KEYS.items()}
    write_store(
        tmp_path / "store",
        fingerprint(),
        (KEYS["train"], tables["train"]),
        (KEYS["test"], tables["test"]),
        {"parameters": "1"},
    )
    return tmp_path / "store"


def test_a_store_gives_back_what_was_written_by_key(store):
    assert has_store(store)
    tables = load_file(store / OUTPUTS)
    training, testing = read_store(store, fingerprint())
    found = training.outputs({"keys": ["run/2", "run/0"]})["embedding"]
    assert torch.equal(found, tables["train.embedding"][[2, 0]])
    assert torch.equal(testing.outputs({"keys": ["run/4"]})["embedding"], tables["test.embedding"][[1]])
    assert testing.facts == {"parameters": "1"}
    with pytest.raises(UserError, match="rebuild_store"):
        training.outputs({"keys": ["run/4"]})


@pytest.mark.parametrize("change", [{"model": "other"}, {"weights": "def"}, {"views (training frames)": "svd"}])
def test_a_store_of_something_else_is_refused_naming_it_and_the_remedy(store, change):
    (name,) = change
    with pytest.raises(UserError) as refused:
        read_store(store, fingerprint(**change))
    assert f"other {name} than this run has" in str(refused.value)
    assert "--rebuild_store" in str(refused.value)


def test_one_changed_file_is_refused_and_counted(store):
    other = {"cloud files (training frames)": ["hash of run/0", "another", "hash of run/2"]}
    with pytest.raises(UserError, match=r"other 1 of 3 cloud files \(training frames\)"):
        read_store(store, fingerprint(**other))


def test_a_store_is_usable_where_weights_and_clouds_are_absent_and_says_what_was_not_compared(store):
    bare = fingerprint(**{"weights": None, "cloud files (training frames)": ["", "", "hash of run/2"]})
    read_store(store, bare)
    assert compare_store(store, bare).unknown == ["weights", "2 of 3 cloud files (training frames)"]


def test_an_interrupted_filling_counts_as_absent(store):
    (store / MANIFEST).unlink()
    assert not has_store(store)


def rewrite(store: Path, change) -> None:
    """Another manifest, with the hash that belongs to it where it is a table."""
    manifest = json.loads((store / MANIFEST).read_text())
    manifest.pop(OWN_HASH)
    changed = change(manifest)
    if isinstance(changed, dict):
        changed = {**changed, OWN_HASH: _own_hash(changed)}
    (store / MANIFEST).write_text(json.dumps(changed))


def broken(**changes):
    def change(manifest: dict) -> object:
        for name, value in changes.items():
            manifest.pop(name) if value is None else manifest.__setitem__(name, value)
        return manifest

    return change


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda manifest: [], "no table"),
        (lambda manifest: 3, "no table"),
        (broken(fingerprint=[]), "fingerprint"),
        (broken(fingerprint={"facts": []}), "origin"),
        (broken(fingerprint={}), "origin"),
        (broken(train_keys=None), "train_keys"),
        (broken(test_keys=None), "test_keys"),
        (broken(test_keys="run/3"), "test_keys"),
        (broken(train_keys=["run/0", "run/1"]), "train_keys"),
        (broken(train_keys=["run/1", "run/0", "run/2"]), "train_keys"),
        (broken(train_keys=["run/0", "run/0", "run/2"]), "twice"),
        (broken(train_keys=[0, 1, 2]), "texts"),
        (broken(sha256=None), "sha256"),
        (broken(sha256=7), "sha256"),
        (broken(sha256="0" * 64), "hash"),
        (broken(facts=None), "facts"),
        (broken(facts=[]), "facts"),
        (broken(facts={"parameters": 1}), "texts"),
        (broken(fingerprint=None, preprocessing="{}"), "older version"),
    ],
)
def test_a_damaged_manifest_is_one_line_with_the_remedy(store, damage, named):
    rewrite(store, damage)
    with pytest.raises(UserError) as refused:
        read_store(store, fingerprint())
    assert named in str(refused.value)
    assert "--rebuild_store" in str(refused.value)


def test_a_changed_fact_of_the_manifest_is_noticed(store):
    manifest = json.loads((store / MANIFEST).read_text())
    (store / MANIFEST).write_text(json.dumps({**manifest, "facts": {"parameters": "8"}}))
    with pytest.raises(UserError, match=r"its own hash.*--rebuild_store"):
        read_store(store, fingerprint())


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"[" * 100_000, b"", b"null"])
def test_a_manifest_that_is_no_json_is_one_line(store, content):
    (store / MANIFEST).write_bytes(content)
    with pytest.raises(UserError, match="--rebuild_store"):
        read_store(store, fingerprint())


@pytest.mark.parametrize(
    "tables",
    [
        {"train.embedding": torch.randn(2, 4), "test.embedding": torch.randn(2, 4)},
        {"train.embedding": torch.full((3, 4), float("nan")), "test.embedding": torch.randn(2, 4)},
        {"train.embedding": torch.randn(3, 4), "test.embedding": torch.tensor(1.0)},
        {"train.embedding": torch.randn(3, 4)},
    ],
)
def test_tables_that_do_not_fit_their_keys_are_refused(store, tables):
    save_file(tables, store / OUTPUTS)
    rewrite(store, broken(sha256=sha256(store / OUTPUTS)))
    with pytest.raises(UserError, match=r"damaged.*--rebuild_store"):
        read_store(store, fingerprint())


def test_changed_absent_or_foreign_outputs_are_refused(store):
    content = bytearray((store / OUTPUTS).read_bytes())
    content[-1] ^= 1
    (store / OUTPUTS).write_bytes(bytes(content))
    with pytest.raises(UserError, match="damaged"):
        read_store(store, fingerprint())
    (store / OUTPUTS).write_bytes(b"no tensors")
    rewrite(store, broken(sha256=sha256(store / OUTPUTS)))
    with pytest.raises(UserError, match="damaged"):
        read_store(store, fingerprint())
    (store / OUTPUTS).unlink()
    with pytest.raises(UserError, match="damaged"):
        read_store(store, fingerprint())


def test_a_teacher_whose_outputs_are_not_finite_fills_no_store(tmp_path):
    bad = torch.ones(3, 4)
    bad[1, 2] = float("inf")
    with pytest.raises(UserError, match="embedding of 1 of 3 places is not finite, the first run/1"):
        write_store(
            tmp_path, fingerprint(), (KEYS["train"], {"embedding": bad}), (KEYS["test"], {"embedding": bad[:2]}), {}
        )
    assert not has_store(tmp_path)


def test_the_manifest_holds_no_pickle_and_names_the_teacher(store):
    manifest = json.loads((store / MANIFEST).read_text())
    assert (manifest["fingerprint"]["facts"]["model"], manifest["train_keys"]) == ("net", KEYS["train"])
