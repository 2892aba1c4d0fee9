"""Losses and miners of pytorch-metric-learning on pair masks: each tried, the first by its formula, all refusals."""

import inspect
import math

import pytest
import torch

from distilplace.common.errors import UserError
from distilplace.engine.building import build_task_loss
from distilplace.engine.options import TrainOptions
from distilplace.engine.options.command_line import parse
from distilplace.losses import create_task_loss, task_loss_settings
from distilplace.losses.tasks.pml import _places, mine
from distilplace.losses.tasks.pml_table import LOSSES, MINERS, REFUSED

NAME = "pml:MultiSimilarityLoss"


def batch(size: int = 10, seed: int = 0):
    """Embeddings, and masks in which many pairs are neither positive nor negative."""
    generator = torch.Generator().manual_seed(seed)
    embedding = torch.randn(size, 5, generator=generator, dtype=torch.float64).requires_grad_()
    where = torch.arange(size) + torch.rand(size, generator=generator)
    apart = (where.unsqueeze(0) - where.unsqueeze(1)).abs()
    return embedding, (apart < 1.6) & (apart > 0), apart > 3


def masks_of(places: torch.Tensor):
    same = places.unsqueeze(0) == places.unsqueeze(1)
    return same & ~torch.eye(len(places), dtype=torch.bool), ~same


EMPTY = {
    "no positives": lambda: masks_of(torch.arange(6)),
    "no negatives": lambda: masks_of(torch.zeros(6)),
    "no pairs": lambda: (torch.zeros(6, 6, dtype=torch.bool), torch.zeros(6, 6, dtype=torch.bool)),
}


def check_finite(loss_function, embedding, positives, negatives):
    loss, statistics = loss_function({"embedding": embedding}, positives, negatives)
    loss.backward()
    assert loss.shape == ()
    assert all(math.isfinite(value) for value in (loss.item(), *statistics.values()))
    assert embedding.grad.isfinite().all()
    return loss.item()


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_of_the_table_works_with_and_without_pairs(name):
    loss_function = create_task_loss(f"pml:{name}")
    embedding, *masks = batch()
    assert check_finite(loss_function, embedding, *masks) > 0
    assert embedding.grad.abs().sum() > 0
    for make in EMPTY.values():
        check_finite(loss_function, torch.randn(6, 5, requires_grad=True), *make())


@pytest.mark.parametrize("name", MINERS)
def test_every_miner_of_the_table_takes_allowed_pairs_alone(name):
    loss_function = create_task_loss(NAME, miner=name)
    embedding, positives, negatives = batch()
    check_finite(loss_function, embedding, positives, negatives)
    chosen = loss_function._indices(embedding.detach(), positives, negatives)
    anchors, found, others, wrong = chosen if len(chosen) == 4 else (*chosen[:2], chosen[0], chosen[2])
    assert len(found) > 0 or name == "PairMarginMiner"
    assert positives[anchors, found].all()
    assert negatives[others, wrong].all()
    for make in EMPTY.values():
        check_finite(loss_function, torch.randn(6, 5, requires_grad=True), *make())


def test_the_table_names_all_that_the_library_has():
    from pytorch_metric_learning import losses, miners

    classes = {name for room in (losses, miners) for name, value in vars(room).items() if inspect.isclass(value)}
    assert {*LOSSES, *MINERS, *REFUSED} == {name for name in classes if not name.endswith("Mixin")}


@pytest.mark.parametrize("settings", [{}, {"alpha": "1", "beta": "40.5", "base": "-0.25"}])
def test_multi_similarity_by_its_formula(settings):
    """Wang et al., CVPR 2019, eq. 16, in loops over the masks."""
    alpha, beta, base = (float(settings.get(key, value)) for key, value in (("alpha", 2), ("beta", 50), ("base", 0.5)))
    embedding, positives, negatives = batch()
    unit = [[value / math.dist(row, [0] * 5) for value in row] for row in embedding.tolist()]
    total = 0.0
    for i, row in enumerate(unit):
        alike = [sum(a * b for a, b in zip(row, other, strict=True)) for other in unit]
        near = sum(math.exp(-alpha * (s - base)) for s, yes in zip(alike, positives[i], strict=True) if yes)
        far = sum(math.exp(beta * (s - base)) for s, yes in zip(alike, negatives[i], strict=True) if yes)
        total += math.log(1 + near) / alpha + math.log(1 + far) / beta
    loss, statistics = create_task_loss(NAME, loss_settings=settings)({"embedding": embedding}, positives, negatives)
    assert loss.item() == pytest.approx(total / 10, rel=1e-9)
    assert statistics["num_positive_pairs"] == positives.sum()


def test_multi_similarity_mining_by_its_definition():
    """A negative is kept if more alike than the least alike positive less epsilon; positives the other way round."""
    embedding, positives, negatives = batch()
    loss_function = create_task_loss(NAME, miner="MultiSimilarityMiner", miner_settings={"epsilon": "0.3"})
    found = loss_function._indices(embedding.detach(), positives, negatives)
    unit = torch.nn.functional.normalize(embedding.detach(), dim=1)
    alike = (unit @ unit.T).tolist()
    pairs: tuple[set, set] = (set(), set())
    for i, row in enumerate(alike):
        near = [row[j] for j in range(10) if positives[i, j]]
        far = [row[j] for j in range(10) if negatives[i, j]]
        pairs[0].update((i, j) for j in range(10) if near and far and positives[i, j] and row[j] - 0.3 < max(far))
        pairs[1].update((i, j) for j in range(10) if near and far and negatives[i, j] and row[j] + 0.3 > min(near))
    assert set(zip(found[0].tolist(), found[1].tolist(), strict=True)) == pairs[0]
    assert set(zip(found[2].tolist(), found[3].tolist(), strict=True)) == pairs[1]


@pytest.mark.parametrize("name", [name for name in MINERS if name not in ("DistanceWeightedMiner", "HDCMiner")])
def test_anchor_by_anchor_is_what_the_library_does_where_places_are_distinct(name, monkeypatch):
    places = torch.tensor([0, 0, 1, 1, 1, 2, 2, 3])
    positives, negatives = masks_of(places)
    assert _places(positives, negatives) is not None
    assert _places(*batch()[1:]) is None
    embedding = torch.randn(8, 5, generator=torch.Generator().manual_seed(1))
    miner = create_task_loss(NAME, miner=name).miner
    whole = mine(miner, embedding, positives, negatives)
    monkeypatch.setattr("distilplace.losses.tasks.pml._places", lambda *_: None)
    single = mine(miner, embedding, positives, negatives)
    if len(whole) == 3:
        assert set(zip(*map(torch.Tensor.tolist, whole), strict=True)) == set(
            zip(*map(torch.Tensor.tolist, single), strict=True)
        )
    else:
        for part in (slice(0, 2), slice(2, 4)):
            both = [set(zip(*map(torch.Tensor.tolist, each[part]), strict=True)) for each in (whole, single)]
            assert both[0] == both[1]


def test_a_drawing_miner_goes_on_where_its_checkpoint_was():
    embedding, positives, negatives = batch(40)
    settings = {"miner": "DistanceWeightedMiner"}
    first, second = create_task_loss(NAME, **settings), create_task_loss(NAME, **settings)
    before = torch.get_rng_state()
    drawn = [first({"embedding": embedding}, positives, negatives)[0].item() for _ in range(3)]
    assert torch.equal(before, torch.get_rng_state())
    assert len(set(drawn)) > 1
    second({"embedding": embedding}, positives, negatives)
    third = create_task_loss(NAME, **settings)
    third.load_state_dict(second.state_dict())
    assert [third({"embedding": embedding}, positives, negatives)[0].item() for _ in range(2)] == drawn[1:]


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("pml:MultiSimilarityLos", {}, "did you mean 'pml:MultiSimilarityLoss'"),
        ("pml:ArcFaceLoss", {}, "pml:ArcFaceLoss does not work here: it learns a proxy of every class"),
        ("pml:NPairsLoss", {}, "class label"),
        ("pml:CrossBatchMemory", {}, "does not work here"),
        (NAME, {"miner": "MultiSimilarityMine"}, "did you mean 'MultiSimilarityMiner'"),
        (NAME, {"miner": "UniformHistogramMiner"}, "--miner UniformHistogramMiner does not work here"),
        (NAME, {"loss_settings": {"alhpa": "2"}}, "did you mean 'alpha'"),
        (NAME, {"loss_settings": {"reducer": "2"}}, "unknown setting"),
        (NAME, {"loss_settings": {"alpha": "much"}}, "--loss_settings alpha is 'much': give a finite number"),
        (NAME, {"loss_settings": {"alpha": "0"}}, "does not work with alpha=0"),
        (NAME, {"loss_settings": {"distance": "Cosine"}}, "did you mean 'CosineSimilarity'"),
        (NAME, {"miner_settings": {"epsilon": "0.1"}}, "without --miner"),
        (NAME, {"miner": "TripletMarginMiner", "miner_settings": {"type_of_triplets": "harder"}}, "mean 'hard'"),
        (NAME, {"miner": "BatchHardMiner", "miner_settings": {"pos_strategy": "hard"}}, "unknown setting"),
        (NAME, {"miner": "BatchHardMiner", "miner_settings": {"allowed_pos_range": "1"}}, "two numbers"),
        (NAME, {"miner": "AngularMiner", "miner_settings": {"distance": "CosineSimilarity"}}, "does not take distance"),
        ("pml:CircleLoss", {"loss_settings": {"distance": "LpDistance"}}, "requires the distance metric"),
        ("pml:TripletMarginLoss", {"loss_settings": {"swap": "maybe"}}, "give True or False"),
        (NAME, {"margin": 0.2}, "unknown setting of task loss"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(name, settings, message):
    with pytest.raises(UserError, match=message) as error:
        create_task_loss(name, **settings)
    assert "\n" not in str(error.value)


def test_distances_and_ranges_are_settings_too():
    embedding, positives, negatives = batch()
    long = (embedding * 3).detach()

    def value(vectors, **settings):
        loss, _ = create_task_loss("pml:TripletMarginLoss", loss_settings=settings)(
            {"embedding": vectors}, positives, negatives
        )
        return loss.item()

    assert value(long) == pytest.approx(value(embedding))
    raw = {"normalize_embeddings": "false", "margin": "0"}
    assert value(long, **raw) == pytest.approx(3 * value(embedding, **raw))
    assert value(embedding, distance="CosineSimilarity") != pytest.approx(value(embedding))
    ranged = {"pos_strategy": "hard", "neg_strategy": "hard", "allowed_neg_range": "0.5_2"}
    create_task_loss(NAME, miner="BatchEasyHardMiner", miner_settings=ranged)


def test_options_make_the_loss_and_are_refused_where_nobody_reads_them(tmp_path):
    def options(*argv):
        return parse(TrainOptions, argv, home=tmp_path, environment={})

    assert task_loss_settings(NAME) == ("loss_settings", "miner", "miner_settings")
    found = build_task_loss(
        options("--loss", NAME, "--loss_settings", "alpha=1 beta=40", "--miner", "HDCMiner", "--miner_settings", "")
    )
    assert (found.loss.alpha, found.loss.beta, found.loss.base) == (1, 40, 0.5)
    (tmp_path / "r.yaml").write_text(f"loss: {NAME}\nloss_settings:\n  alpha: 3\n")
    assert build_task_loss(options("--config", str(tmp_path / "r.yaml"))).loss.alpha == 3
    for flags in (["--miner", "HDCMiner"], ["--loss_settings", "alpha=1"]):
        with pytest.raises(UserError, match=f"no effect here, omit: {flags[0]} .read by losses pml:MultiSim"):
            options(*flags)
    with pytest.raises(UserError, match="--margin"):
        options("--loss", NAME, "--margin", "1")
    for text, message in (("alpha", "name=value"), ("alpha=", "name=value"), ("alpha=1 alpha=2", "twice")):
        with pytest.raises(UserError, match=f"--loss_settings: .*{message}"):
            options("--loss", NAME, "--loss_settings", text)
    (tmp_path / "r.yaml").write_text(f"loss: {NAME}\nloss_settings:\n  alpha: [3]\n")
    with pytest.raises(UserError, match="mapping"):
        options("--config", str(tmp_path / "r.yaml"))


@pytest.mark.slow
def test_a_short_training_by_the_recipe(tmp_path):
    import json

    from distilplace import train
    from tests.miniature_images import numbered, write_images, write_truth

    write_images(tmp_path / "d", numbered(range(24)), numbered(range(24)))
    write_truth(tmp_path / "d", [(name, name) for name in numbered(range(24))])
    command = ["--config", "images_multisimilarity", "--dataset_folder", str(tmp_path / "d"), "--pretrained", "none"]
    command += ["--image_size", "32x40", "--train_batch_size", "8", "--epochs", "1", "--logdir", str(tmp_path)]
    assert train.main([*command, "--exp_name", "run", "--teacher_output_dim", "8"]) == 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert any(line.get("train/num_positive_pairs", 0) > 0 and line["train/loss_task"] > 0 for line in lines)
