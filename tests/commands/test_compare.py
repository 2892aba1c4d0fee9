"""``evaluate.py --compare``: every checkpoint with its own preprocessing, on the same records; progress is told."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from distilplace import evaluate, train
from distilplace.engine.building import build_test_data
from distilplace.engine.comparison import preprocessing, row_names
from distilplace.engine.options import EvaluateOptions, TrainOptions
from distilplace.models import create_model
from distilplace.models.checkpoints import save_weights
from tests.conftest import ROOT
from tests.miniature_images import numbered, write_images

DATA = ROOT / "tests" / "data"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> dict[str, str]:
    """Options of an image set of eight places seen twice."""
    folder = write_images(tmp_path_factory.mktemp("compared"), numbered(range(8)), numbered(range(8)))
    return {"dataset": "images", "dataset_folder": str(folder), "frame_tolerance": 0, "image_size": "48x64"}


def made_run(folder: Path, mode: str, name: str, settings: dict, **options) -> str:
    """A run folder as train.py leaves it, with random weights; path of the weights."""
    weights = named_run(folder, mode, name, **options)
    save_weights(create_model(name, **settings), weights, {})
    return weights


def named_run(folder: Path, mode: str, name: str, **options) -> str:
    """A run folder whose weights are an empty file."""
    (folder / "models").mkdir(parents=True)
    key = "model" if mode == "teacher" else "student_model"
    chosen = {**options, "train_mode": f"train_{mode}", key: [name] if mode == "teacher" else name}
    (folder / "config.yaml").write_text(yaml.safe_dump(TrainOptions(**chosen).model_dump(), sort_keys=False))
    (folder / "models" / "best.safetensors").touch()
    return str(folder / "models" / "best.safetensors")


def image_run(folder: Path, pictures, **options) -> str:
    settings = {"output_dim": 8, "pretrained": "none"}
    return made_run(folder, "student", "resnet18", settings, **{**pictures, "student_output_dim": 8, **options})


@pytest.fixture
def scored(monkeypatch):
    """What ``evaluate.py FLAGS`` would report, by row; the report itself is not drawn."""

    def score(*flags: str) -> dict[str, dict]:
        found = []
        monkeypatch.setattr(evaluate, "report_outcome", lambda outcome, **texts: found.append(outcome.entries))
        assert evaluate.main(list(flags)) == 0
        monkeypatch.undo()
        rows = {entry.name: entry.result.to_dict() for entry in found[0]}
        return {name: {key: row[key] for key in ("recall", "top1_similarity")} for name, row in rows.items()}

    return score


PREPARED = [
    {"image_size": "64"},
    {"normalisation": "raw"},
    {"views": "svd", "crop_size": 32},
    {"views": "svd", "crop_size": 40},
    {"scales": [1.0, 0.7]},
]


@pytest.mark.slow
def test_every_checkpoint_is_prepared_as_its_own_run_was(pictures, tmp_path, scored):
    runs = [image_run(tmp_path / f"r{n}", pictures, **options) for n, options in enumerate([{}, *PREPARED])]
    together = scored("--weights", runs[0], "--compare", *runs[1:])
    assert len(together) == len(runs)
    for weights in runs:
        ((name, alone),) = scored("--weights", weights).items()
        assert together[name] == alone
    assert len({row["top1_similarity"] for row in together.values()}) == len(runs)  # each changes something
    held = scored("--weights", runs[0], "--compare", runs[1], "--image_size", "48x64")
    assert held["r0 (student resnet18)"] == together["r0 (student resnet18)"]
    assert held["r1 (student resnet18)"] != together["r1 (student resnet18)"]  # flags hold for all


@pytest.mark.slow
def test_voxels_are_each_runs_own(oxford, tmp_path, scored):
    where = {"dataset": "oxford", "dataset_folder": str(oxford.folder), "image_path": str(oxford.images)}
    runs = [
        made_run(
            tmp_path / f"v{size}",
            "teacher",
            "minkloc",
            {"feature_size": 16},
            **{**where, "minklocmm_cloud_fe_dim": 16, "oxford_quantization_size": size},
        )
        for size in (0.02, 0.05)
    ]
    together = scored("--weights", runs[0], "--compare", runs[1])
    for weights in runs:
        ((name, alone),) = scored("--weights", weights).items()
        assert together[name] == alone


@pytest.mark.slow
def test_other_test_sets_are_refused(pictures, tmp_path, capsys, scored):
    mine = image_run(tmp_path / "mine", pictures)
    folder = write_images(tmp_path / "more", numbered(range(9)), numbered(range(8)))
    other = image_run(tmp_path / "other", {**pictures, "dataset_folder": str(folder)})
    looser = image_run(tmp_path / "looser", {**pictures, "frame_tolerance": 1})
    for weights, part in ((other, "records"), (looser, "query sets")):
        assert evaluate.main(["--weights", mine, "--compare", weights, "--report", str(tmp_path / "r")]) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert part in line
        assert "--dataset_folder" in line
    assert not (tmp_path / "r").exists()
    flags = ["--weights", mine, "--compare", other, "--dataset_folder", pictures["dataset_folder"]]
    assert len(scored(*flags)) == 2  # said on the command line, the folder holds for both


def test_damaged_options_of_a_run_are_refused(pictures, tmp_path, capsys):
    """A line that is lost would give way to a default, and other numbers."""
    whole, damaged = (named_run(tmp_path / name, "student", "resnet18", **pictures) for name in ("whole", "damaged"))
    config = tmp_path / "damaged" / "config.yaml"
    lines = config.read_text().splitlines(keepends=True)
    lost = [line for line in lines if not line.startswith("eval_radius")]
    for text, told in (
        ("".join(lost), "lacks the option eval_radius"),
        ("".join(lines[:100]), "lacks the option"),
        ("".join([*lines, "radius: 3\n"]), "holds an unknown option radius"),
    ):
        config.write_text(text)
        for flags in (["--weights", damaged], ["--weights", whole, "--compare", damaged]):
            assert evaluate.main([*flags, "--report", str(tmp_path / "r")]) == 2
            (line,) = capsys.readouterr().err.strip().splitlines()
            assert line.startswith(f"error: {config} is damaged or of another version (it {told}")
    assert not (tmp_path / "r").exists()


def test_weights_of_an_earlier_version_are_evaluated_with_defaults(pictures, tmp_path, capsys, scored):
    """Its config.yaml lacks what is new since. A new option that is not in ``saved.LATER`` is missed here."""
    now, then = (image_run(tmp_path / name, pictures) for name in ("now", "then"))
    Path(then).write_bytes(Path(now).read_bytes())
    config = tmp_path / "then" / "config.yaml"
    earlier, options = (yaml.safe_load(path.read_text()) for path in (DATA / "config_0.1.0.yaml", config))
    config.write_text(yaml.safe_dump({name: options[name] for name in earlier}, sort_keys=False))
    capsys.readouterr()
    assert [*scored("--weights", then).values()] == [*scored("--weights", now).values()]
    lacking = [name for name in options if name not in earlier]
    lines = [line for line in capsys.readouterr().out.splitlines() if "earlier version" in line]
    assert lines == [f"{config} is of an earlier version; at their defaults: {', '.join(lacking)}"]
    assert {"predictions", "centre", "align_head"} <= set(lacking)

    (tmp_path / "then" / "last.ckpt").touch()
    assert train.main(["--logdir", str(tmp_path), "--exp_name", "then", "--resume", "auto"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith(f"error: {config} is of an earlier version (without {sorted(lacking)[0]}, ")
    config.write_text(config.read_text().replace("eval_radius: null\n", ""))
    assert evaluate.main(["--weights", then]) == 2
    assert "it lacks the option eval_radius" in capsys.readouterr().err


def test_weights_that_do_not_exist_are_named_as_such(pictures, tmp_path, capsys):
    weights = named_run(tmp_path / "whole", "student", "resnet18", **pictures)
    for flags in (["--weights", "/nonexistent"], ["--weights", weights, "--compare", "/nonexistent"]):
        assert evaluate.main(flags) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert "weights file /nonexistent does not exist" in line


def test_what_differs_in_preparing_is_told_and_no_more(pictures, tmp_path):
    def told(**options) -> str:
        chosen = EvaluateOptions(weights="w", **{**pictures, **options})
        return preprocessing(chosen, build_test_data(chosen), {"images"})

    assert told() == "images 48x64, imagenet, views place, scales 1"
    assert told(query_image_size="short32") == "images 48x64 (queries short32), imagenet, views place, scales 1"
    assert told(query_image_size="48x64") == told()
    assert "views landmarks, " in told(views="landmarks", crop_size=40)  # which crops in training alone
    assert "views svd of 40, " in told(views="svd", crop_size=40)


def test_a_file_that_is_compared_with_itself_has_two_names(pictures, tmp_path):
    weights = named_run(tmp_path / "r", "student", "resnet18", **pictures)
    rows = evaluate.read_rows(["--weights", weights, "--compare", weights, weights])
    name = f"{weights} (student resnet18)"
    assert row_names(rows) == [name, f"{name} #2", f"{name} #3"]


@pytest.mark.slow
def test_rows_are_called_as_runs_and_files_are_and_roles_where_known(pictures, tmp_path, capsys, scored, monkeypatch):
    runs = [image_run(tmp_path / place / "same", pictures) for place in ("a", "b")]
    assert list(scored("--weights", runs[0], "--compare", runs[1])) == [
        f"{weights} (student resnet18)" for weights in runs
    ]
    file = tmp_path / "published.safetensors"
    file.write_bytes(Path(runs[0]).read_bytes())
    where = [text for name, value in pictures.items() for text in (f"--{name}", str(value))]
    named = ["--weights", str(file), "--model", "resnet18", "--teacher_output_dim", "8", *where]
    assert list(scored(*named)) == ["published.safetensors (resnet18)"]
    assert list(scored(*named, "--role", "teacher")) == ["published.safetensors (teacher resnet18)"]
    assert evaluate.main([*named, "--clusters", "3"]) == 2
    assert "clusters" in capsys.readouterr().err
    monkeypatch.chdir(tmp_path)
    assert evaluate.main(named) == 0  # no run: the report lies below the current folder
    assert (tmp_path / "logs" / "evaluation-published-images" / "report" / "index.html").is_file()


@pytest.mark.slow
def test_progress_is_on_the_pipe_at_once(pictures, tmp_path, root):
    """The first line comes before anything is described, every stage has a line at its start and one at its end."""
    weights = image_run(tmp_path / "r", pictures)
    command = [sys.executable, str(root / "evaluate.py"), "--weights", weights, "--report", str(tmp_path / "out")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line.rstrip("\n"))
            if "describing" in line and line.endswith("...\n"):
                assert process.poll() is None  # it still works while we read
        errors = process.stderr.read() if process.stderr else ""
    assert process.returncode == 0
    begun = [line.removesuffix(" ...") for line in lines if line.endswith(" ...")]
    assert len(begun) == 4
    for what in begun:
        assert any(line.startswith(f"{what}: ") and line.endswith(" s") for line in lines)
    assert "\r" not in errors
    assert "it/s" not in errors
