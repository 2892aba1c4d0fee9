"""``--whitening``: a published whitening instead of a fitted one, in training and in evaluation."""

import numpy as np
import pytest
import torch

from distilplace import evaluate, train
from distilplace.common.errors import UserError
from distilplace.engine.caches.published_whitening import one_for_each, published_whitening, whitened
from distilplace.models import create_model
from distilplace.models.checkpoints import save_weights
from distilplace.models.whitening import Whitening
from tests.miniature_images import numbered, write_images

WIDTH, KEPT = 6, 3


def published(seed: int = 0, width: int = WIDTH) -> dict[str, torch.Tensor]:
    """What Whiten_MTD's program stores: all eigenvalues, rising, and its matrix, computed here the slow way."""
    rows = torch.from_numpy(np.random.default_rng(seed).normal(size=(50, width)) * np.arange(1, width + 1)).float()
    mean = rows.mean(dim=0, keepdim=True)
    values, vectors = torch.linalg.eigh((rows - mean).T @ (rows - mean) / len(rows))
    order = values.argsort(descending=True)[:KEPT]
    dvt = torch.diag(1 / values[order] ** 0.5) @ vectors[:, order].T
    sizes = {"dim1": torch.tensor(width), "dim2": torch.tensor(KEPT), "whit": torch.tensor(0.5), "n_0": torch.tensor(0)}
    return {**sizes, "d": values, "v": vectors, "mean": mean, "dvt": dvt}


def by_hand(state: dict[str, torch.Tensor], rows: torch.Tensor) -> torch.Tensor:
    found = []
    for row in rows.double():
        unit = row / row.norm()
        white = torch.stack([(line.double() * (unit - state["mean"][0].double())).sum() for line in state["dvt"]])
        found.append(white / white.norm())
    return torch.stack(found).float()


@pytest.mark.parametrize(
    "pack",
    [
        lambda state: state,
        lambda state: {"state_dict": state},
        lambda state: {key: value.numpy() for key, value in state.items()},
        lambda state: {key: int(value) if key.startswith("dim") else value for key, value in state.items()},
        lambda state: {key: state[key] for key in ("mean", "dvt")},
    ],
    ids=["as published", "nested", "numpy", "plain sizes", "mean and matrix"],
)
@pytest.mark.parametrize("legacy", [False, True])
def test_unit_length_whitening_unit_length(tmp_path, pack, legacy):
    state, rows = published(), torch.randn(5, WIDTH)
    torch.save(pack(state), tmp_path / "pca.pt", _use_new_zipfile_serialization=not legacy)
    found = Whitening.published(tmp_path / "pca.pt")
    assert (found.dim1, found.dim2) == (WIDTH, KEPT)
    torch.testing.assert_close(whitened(found)(rows), by_hand(state, rows), rtol=0, atol=1e-6)


def test_its_own_files_are_read_too_and_a_flipped_bit_is_noticed(tmp_path):
    fitted, path = Whitening.fit(torch.randn(40, WIDTH), KEPT), tmp_path / "a.safetensors"
    fitted.save(path, "something")
    rows = torch.randn(4, WIDTH)
    assert torch.equal(Whitening.published(path)(rows), fitted(rows))
    content = bytearray(path.read_bytes())
    content[-9] ^= 4
    path.write_bytes(bytes(content))
    for read in (Whitening.published, lambda file: Whitening.load(file, "something")):
        with pytest.raises(UserError, match="does not match its hash"):
            read(path)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"mean": None}, "mean absent"),
        ({"dvt": None}, "dim1, dim2, dvt absent|dvt absent"),
        ({"dvt": torch.full((KEPT, WIDTH), float("nan"))}, "not finite"),
        ({"dim2": torch.tensor(4)}, "damaged"),
        ({"dim1": torch.ones(2)}, "damaged"),
        ({"mean": torch.ones(1, WIDTH + 1)}, "damaged"),
        ({"dvt": torch.ones(KEPT, WIDTH, dtype=torch.complex64)}, "damaged"),
    ],
)
def test_what_is_no_whitening_is_one_line(tmp_path, change, told):
    state = {key: value for key, value in {**published(), **change}.items() if value is not None}
    torch.save(state, tmp_path / "pca.pt")
    with pytest.raises(UserError, match=rf"pca\.pt.*({told})"):
        Whitening.published(tmp_path / "pca.pt")


def test_widths_and_numbers_of_files_must_fit(tmp_path):
    torch.save(published(), tmp_path / "pca.pt")
    path, network = str(tmp_path / "pca.pt"), create_model("mobilenetv3_small", output_dim=8, pool="GeM")
    with pytest.raises(UserError, match="for embeddings of 6 numbers, those of teacher have 8"):
        published_whitening(path, network, "teacher")
    network = create_model("mobilenetv3_small", output_dim=WIDTH, pool="GeM")
    assert published_whitening(path, network, "teacher", KEPT).dim2 == KEPT
    with pytest.raises(UserError, match="whitens to 3 numbers, --whiten_dim says 5"):
        published_whitening(path, network, "teacher", 5)
    assert one_for_each([], 2, "teachers") == [None, None]
    assert one_for_each([path, "none"], 2, "teachers") == [path, None]
    with pytest.raises(UserError, match="1 files for 2 teachers"):
        one_for_each([path], 2, "teachers")
    with pytest.raises(UserError, match="no such file"):
        one_for_each(["absent"], 1, "teachers")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """An image set, a teacher of 6 numbers, a whitening for it; flags that both programs take."""
    home = tmp_path_factory.mktemp("whitening")
    folder = write_images(home / "images", numbered(range(24)), numbered(range(24)))
    save_weights(create_model("mobilenetv3_small", output_dim=WIDTH), home / "teacher.safetensors", {})
    torch.save(published(), home / "pca.pt")
    data = ["--dataset", "images", "--dataset_folder", str(folder), "--frame_tolerance", "0", "--image_size", "48x64"]
    return home, data


@pytest.mark.slow  # 5 s
def test_evaluation_whitens_what_it_is_told_to(world, caplog, monkeypatch, capsys):
    home, data = world
    flags = [*data, "--role", "teacher", "--model", "mobilenetv3_small", "--teacher_output_dim", str(WIDTH)]
    flags += ["--weights", str(home / "teacher.safetensors"), "--report", str(home / "report")]
    seen = []
    score = evaluate.Embedder.embed_and_score

    def watched(embedder, network, test, title):
        found = score(embedder, network, test, title)
        seen.append(found[0]["embedding"])
        return found

    monkeypatch.setattr(evaluate.Embedder, "embed_and_score", watched)
    assert evaluate.main(flags) == 0
    assert evaluate.main([*flags, "--whitening", str(home / "pca.pt")]) == 0
    plain, white = seen
    assert white.shape == (len(plain), KEPT)
    torch.testing.assert_close(white, by_hand(published(), plain), rtol=0, atol=1e-5)
    assert "embeddings are whitened by" in capsys.readouterr().out
    assert evaluate.main([*flags, "--whitening", str(home / "pca.pt"), "--pca", "3"]) == 2
    assert "both whiten the embeddings" in capsys.readouterr().err
    assert evaluate.main([*flags, "--whitening", str(home / "pca.pt"), "--compare", flags[-3]]) == 2
    assert "1 files for 2 checkpoints" in capsys.readouterr().err


@pytest.mark.slow  # 6 s
def test_training_takes_published_whitenings(world, capsys):
    home, data = world
    flags = [*data, "--logdir", str(home / "logs"), "--pretrained", "none", "--train_fraction", "0.5", "--epochs", "1"]
    flags += ["--model", "mobilenetv3_small", "--teacher_weights_path", str(home / "teacher.safetensors")]
    flags += ["--teacher_output_dim", str(WIDTH), "--student_model", "mobilenetv3_small", "--student_output_dim", "4"]
    flags += ["--distil_method", "whiten_mtd", "--loss", "none", "--train_batch_size", "4", "--val_fraction", "0"]
    flags += ["--exp_name", "run", "--teacher_outputs", "live", "--batches", "views"]
    assert train.main([*flags, "--whitening", str(home / "pca.pt")]) == 0
    assert f"whitening of mobilenetv3_small: {WIDTH} -> {KEPT} numbers" in (home / "logs/run/log.txt").read_text()
    assert not list((home / "logs").rglob("whitening-*"))
    flags = [*flags, "--exp_name", "b"]
    assert train.main([*flags, "--whitening", str(home / "pca.pt"), "--whiten_dim", "5"]) == 2
    assert "--whiten_dim says 5" in capsys.readouterr().err
