"""ASHT-KD, WAKD and baselines as whole runs of the one trainer, on small image sets."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from distilplace import evaluate, train
from distilplace.engine import embedding
from distilplace.engine.trainer import Trainer
from distilplace.models import create_model
from distilplace.models.image.vlad import VLADNetwork
from tests.miniature_images import numbered, write_images

PYRAMID = ["--student_output_dim", "16", "--teacher_output_dim", "16"]


@pytest.fixture(scope="session")
def pictures(tmp_path_factory) -> list[str]:
    """Flags of an image set of 24 places: the first half trains, the second is tested."""
    folder = write_images(tmp_path_factory.mktemp("pictures"), numbered(range(24)), numbered(range(24)))
    where = ["--dataset", "images", "--dataset_folder", str(folder), "--frame_tolerance", "0"]
    short = ["--train_fraction", "0.5", "--image_size", "48x64", "--pretrained", "none", "--epochs", "1"]
    return [*where, *short, "--val_fraction", "0"]


def run(pictures: list[str], logs: Path, name: str, *flags: str) -> Path:
    """Train; the run's folder."""
    places = [] if "--tuple_size" in flags else ["--train_batch_size", "8"]
    assert train.main([*pictures, *places, "--logdir", str(logs), "--exp_name", name, *flags]) == 0
    return logs / name


def weights(folder: Path) -> str:
    return str(folder / "models" / "best.safetensors")


def logged(folder: Path) -> dict[str, float]:
    """All numbers of the last training step."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "train/loss" in line][-1]


@pytest.fixture(scope="session")
def pyramid_teachers(pictures, tmp_path_factory) -> list[str]:
    logs = tmp_path_factory.mktemp("pyramids")
    teach = ["--train_mode", "train_teacher", "--model", "dsformer", "--teacher_output_dim", "16"]
    teach += ["--loss", "CorrelationRankingCrossEntropy"]
    folders = [run(pictures, logs, f"t{seed}", *teach, "--seed", str(seed)) for seed in (1, 2)]
    for folder in folders:
        (folder / "last.ckpt").unlink()  # large, and nobody goes on with them
        (folder / "models" / "last.safetensors").unlink()
    return [weights(folder) for folder in folders]


def assert_in_teacher_maps(rows: dict[str, dict], *teachers: str) -> None:
    """The student, the first of the rows of ``test.json``, is measured in the map of each of its teachers."""
    found = next(iter(rows.values()))["asymmetric"]
    assert set(found) == set(teachers)
    for each in found.values():
        for space in ("raw", "centred"):
            directions = {*each[space]["directions"], *each["absent"]}
            assert directions == {"student -> student", "student -> teacher", "teacher -> teacher"}


def asht_flags(teachers: list[str]) -> list[str]:
    models = ["--model", "dsformer", "dsformer", "--teacher_weights_path", *teachers]
    return [
        *("--student_model", "dsformer", *PYRAMID, "--loss", "RankingCrossEntropy", "--distil_method", "asht"),
        *models,
    ]


@pytest.mark.slow
def test_several_teachers_teach_by_asht(pictures, pyramid_teachers, tmp_path):
    folder = run(pictures, tmp_path, "asht", *asht_flags(pyramid_teachers))
    numbers = logged(folder)
    assert {"train/loss_asht_soft", "train/loss_asht_hard", "train/loss_asht_feature"} <= set(numbers)
    assert numbers["train/asht_weight_1"] + numbers["train/asht_weight_2"] == pytest.approx(1.0, abs=1e-5)
    rows = json.loads((folder / "test.json").read_text())
    assert list(rows)[1:] == ["teacher dsformer", "teacher dsformer 2"]
    assert_in_teacher_maps(rows, "dsformer", "dsformer 2")


@pytest.mark.slow
def test_what_a_task_loss_owns_is_learnt_and_goes_on(pictures, pyramid_teachers, tmp_path, monkeypatch):
    """A run stopped in its second step ends with the weights of one that was not, ranking network included."""
    flags = asht_flags(pyramid_teachers)
    straight = run(pictures, tmp_path, "straight", *flags, "--kd", "hint@layer1:1", "--kd", "crd:0.5")
    step = Trainer.forward

    def stop_at_the_second(self, batch):
        self.stopping.requested = self.progress.step == 1
        return step(self, batch)

    monkeypatch.setattr(Trainer, "forward", stop_at_the_second)
    again = [*pictures, "--train_batch_size", "8", "--logdir", str(tmp_path), "--exp_name", "stopped", *flags]
    again += ["--kd", "hint@layer1:1", "--kd", "crd:0.5", "--resume", "auto"]
    assert train.main(again) == 130
    monkeypatch.setattr(Trainer, "forward", step)
    assert train.main(again) == 0
    one, other = (
        torch.load(folder / "last.ckpt", weights_only=True)["parts"] for folder in (straight, tmp_path / "stopped")
    )
    assert one["task_loss"]
    assert {"train/lr_task_loss", "train/lr_distiller"} <= set(logged(straight))
    assert any("bank" in name or "memory" in name for name in one["distiller"])
    for part in ("network", "task_loss", "distiller"):
        assert all(torch.equal(value, other[part][name]) for name, value in one[part].items())


@pytest.mark.slow
def test_a_student_may_be_taught_by_added_terms_alone(pictures, pyramid_teachers, tmp_path):
    flags = ["--model", "dsformer", "--teacher_weights_path", pyramid_teachers[0], "--student_model", "resnet18"]
    flags += [*PYRAMID, "--distil_method", "nokd", "--kd", "pkt:30", "sp@layer2/layer1:2"]
    numbers = logged(run(pictures, tmp_path, "added", *flags))
    assert {"train/loss_pkt", "train/loss_sp_layer2_to_layer1"} <= set(numbers)


TUPLES = ["--tuple_size", "2", "--pos_num", "1", "--neg_num", "2", "--cache_size", "4", "--clusters", "4"]


@pytest.mark.slow
def test_wakd_mines_tuples_in_generations(pictures, tmp_path, monkeypatch):
    begun, widths = [], []
    begin, score = VLADNetwork.initialise_clusters, embedding.score_table

    def watch_clusters(self, descriptors):
        begun.append(self.network)
        return begin(self, descriptors)

    def watch_widths(keys, table, test):
        widths.append(table["embedding"].shape[1])
        return score(keys, table, test)

    monkeypatch.setattr(VLADNetwork, "initialise_clusters", watch_clusters)
    monkeypatch.setattr(embedding, "score_table", watch_widths)
    teach = ["--train_mode", "train_teacher", "--model", "resnet18netvlad", "--loss", "sare_ind", *TUPLES]
    small = [*pictures, "--image_size", "96x96", "--train_fraction", "0.34"]
    teacher = run(small, tmp_path, "teacher", *teach)
    assert list((tmp_path / "clusters").glob("images-*.safetensors"))
    student = ["--model", "resnet18netvlad", "--teacher_weights_path", weights(teacher), "--loss", "sare_joint"]
    student += ["--student_model", "mobilenetv3_smallnetvlad", "--distil_method", "wakd", *TUPLES, "--generations", "2"]
    folder = run(small, tmp_path, "student", *student)
    numbers = logged(folder)
    assert {"train/loss_wakd_vlad", "train/loss_wakd_attention"} <= set(numbers)
    assert_in_teacher_maps(json.loads((folder / "test.json").read_text()), "resnet18netvlad")
    assert numbers["step"] == 8  # 8 queries, 2 a step, one epoch in each of two generations
    assert "generation 1 starts over" in (folder / "log.txt").read_text()
    assert begun == ["resnet18", "mobilenetv3_small"]
    assert evaluate.main(["--weights", weights(folder), "--pca", "5"]) == 0
    reduced = load_file(folder / "models" / "best.pca5.safetensors")
    assert reduced["projection"].shape == (5, 4 * 512)
    assert set(widths[:-1]) == {4 * 512}
    assert widths[-1] == 5


IN_GENERATIONS = ["--generations", "2", "--image_size", "96x96", "--train_fraction", "0.34"]


@pytest.mark.slow
@pytest.mark.parametrize(("loss", "more", "stop"), [("triplet", [], 2), ("sare_ind", IN_GENERATIONS, 5)])
def test_a_run_of_tuples_stopped_between_two_minings_goes_on(pictures, tmp_path, monkeypatch, loss, more, stop):
    flags = ["--train_mode", "train_teacher", "--model", "resnet18netvlad", "--loss", loss, *TUPLES, *more]
    straight = load_file(weights(run(pictures, tmp_path, "straight", *flags)))
    step = Trainer.forward

    def stop_there(self, batch):
        self.stopping.requested = self.progress.step == stop
        return step(self, batch)

    monkeypatch.setattr(Trainer, "forward", stop_there)
    again = [*pictures, "--logdir", str(tmp_path), "--exp_name", "stopped", *flags, "--resume", "auto"]
    assert train.main(again) == 130
    monkeypatch.setattr(Trainer, "forward", step)
    assert train.main(again) == 0
    other = load_file(weights(tmp_path / "stopped"))
    assert all(torch.equal(value, other[name]) for name, value in straight.items())


MISTAKES = [
    (["--distil_method", "asht", "--teacher_outputs", "store"], "no teacher store holds"),
    (["--distil_method", "csdd"], "did you mean 'csd'"),
    (["--distil_method", "asht", "--kd", "pktt:1"], "did you mean 'pkt'"),
    (["--distil_method", "asht", "--kd", "pkt:x"], "pkt:x"),
    (["--distil_method", "hint", "--student_model", "resnet18", "--kd", "at@layer9:1"], "layer9"),
    (["--loss", "sare_ind", "--distil_method", "asht", "--neg_num", "0"], "neg_num"),
    (["--distil_method", "asht", "--image_size", "4x4x4"], "image size"),
    (["--dataset", "pitts30k", "--distil_method", "asht"], "pitts30k"),
]


@pytest.mark.parametrize(("flags", "part"), MISTAKES)
def test_a_mistake_is_one_line(pictures, pyramid_teachers, tmp_path, capsys, flags, part):
    base = [*pictures, "--model", "dsformer", "--teacher_weights_path", pyramid_teachers[0], *PYRAMID]
    flags = [*base, "--student_model", "dsformer", "--logdir", str(tmp_path), *flags]
    assert train.main(flags) == 2
    told = capsys.readouterr().err
    assert part in told
    assert told.count("\n") == 1
    assert not [path for path in tmp_path.iterdir() if path.name != "teacher_stores"]


@pytest.mark.slow
def test_real_images_give_the_stated_recall(real_data, tmp_path):
    """PROVENANCE.md of the samples: MobileNetV2 as it is, mean-pooled, finds 70 % of 20 winter frames in summer."""
    weights_file = real_data("weights") / "mobilenet_v2_imagenet_torchvision_features.pth"
    flags = ["--dataset", "images", "--dataset_folder", str(real_data("nordland_sample")), "--frame_tolerance", "1"]
    flags += ["--model", "mobilenet_v2", "--pool", "mean", "--weights", str(weights_file), "--image_size", "224"]
    assert evaluate.main([*flags, "--report", str(tmp_path)]) == 0
    (found,) = json.loads((tmp_path / "test.json").read_text()).values()
    assert found["recall"]["1"] == pytest.approx(70.0, abs=5.0)
    assert (found["evaluated"], found["unmatched"]) == (20, 10)


def test_every_recipe_is_complete(root):
    """Each names a known method, loss and networks, and every one is in the table of contents."""
    from distilplace.engine.building import build_distiller, build_task_loss, student_settings, teacher_settings
    from distilplace.engine.options import TrainOptions
    from distilplace.engine.options.command_line import parse

    contents = (root / "recipes" / "README.md").read_text()
    for path in sorted((root / "recipes").rglob("*.yaml")):
        options = parse(TrainOptions, ["--config", str(path)], home=root, environment={})
        build_task_loss(options)
        build_distiller(options)
        assert all(teacher_settings(options, name) is not None for name in options.model)
        student_settings(options, options.student_model)
        prefix = path.stem.removesuffix("_" + path.stem.rsplit("_", 1)[-1])
        assert path.name in contents or f"{prefix}_*.yaml" in contents, path.name


def test_every_network_builds_and_says_what_it_gives(root):
    for name in ("apformer", "vgg16netvlad", "mobilenet_v2", "resnet18_full", "mobilenetv3_small"):
        network = create_model(name)
        assert network.requires == ("images",)
        assert network.output_dim > 0
        assert network.level_maps
