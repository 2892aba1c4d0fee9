"""Flags, recipes, environment and paths.yaml: the forms that must work, and one line for every mistake."""

from pathlib import Path

import pytest

from distilplace.common.errors import UserError
from distilplace.engine.options import EvaluateOptions, TrainOptions
from distilplace.engine.options.command_line import parse
from distilplace.engine.options.flags import COMMON, flag_parser, grouped_options

README_COMMAND = (
    "--model minklocmmcat --tryid 0 --rkdgloss_weight 1 --crosslogitdistloss_weight_st2ss 0.1 "
    "--crosslogitsimloss_weight_st2ss 0.1 --crosslogitgeodistloss_weight_st2ss 0.1"
)


def read(home: Path, *argv: str, environment: dict[str, str] | None = None, **rest: object) -> TrainOptions:
    """What is said, whether or not a run of oxford with the default networks reads it (test_relevance.py)."""
    return parse(TrainOptions, argv, home=home, environment=environment or {}, all_read=False, **rest)


def from_yaml(home: Path, text: str, *argv: str) -> TrainOptions:
    (home / "recipe.yaml").write_text(text)
    return read(home, "--config", str(home / "recipe.yaml"), *argv)


FORMS = [
    ("--weights 0.5_0.5_0", "weights: 0.5_0.5_0", "weights", "0.5_0.5_0"),
    ("--milestones 40_80", "milestones: 40_80", "milestones", "40_80"),
    ("--model a b c", "model: [a, b, c]", "model", ["a", "b", "c"]),
    ("--model a", "model: a", "model", ["a"]),
    ("--cache_aug", "cache_aug: True", "cache_aug", True),
    ("--cache_aug True", "cache_aug: true", "cache_aug", True),
    ("--cache_aug False", "cache_aug: False", "cache_aug", False),
    ("--crosslogitsimloss_divide False", "crosslogitsimloss_divide: False", "crosslogitsimloss_divide", False),
    ("--image_lidar_k None", "image_lidar_k: None", "image_lidar_k", None),
    ("--image_lidar_k 3", "image_lidar_k: 3", "image_lidar_k", 3),
    ("--scheduler None", "scheduler: None", "scheduler", "None"),
    (
        "--crosslogitdistloss_weight_st2ss 1_0.5",
        "crosslogitdistloss_weight_st2ss: 1_0.5",
        *("crosslogitdistloss_weight_st2ss", "1_0.5"),
    ),
    ("--image_lr 1e-3", "image_lr: 1e-3", "image_lr", 1e-3),
    ("--kd pkt:1 --kd hint@layer3:2", "kd: [pkt:1, hint@layer3:2]", "kd", ["pkt:1", "hint@layer3:2"]),
    ("--kd pkt:1", "kd: pkt:1", "kd", ["pkt:1"]),
    ("--kd None", "kd: None", "kd", []),
    ("--image_size 480x640", "image_size: 480x640", "image_size", "480x640"),
    ("--temperatures 0.07_0.06", "temperatures: 0.07_0.06", "temperatures", "0.07_0.06"),
    ("--kitti_sequence 00", "kitti_sequence: 00", "kitti_sequence", "00"),
    ("--spatial_nms False", "spatial_nms: False", "spatial_nms", False),
    ("--SCmodule 3 4", "SCmodule: [3, 4]", "SCmodule", ["3", "4"]),
    ("-SCmodule 3_4", "SCmodule: 3_4", "SCmodule", ["3_4"]),
    ("-hintmodule 5", "hintmodule: 5", "hintmodule", ["5"]),
    ("--no_query_crop", "query_crop: false", "query_crop", False),
    ("--query_crop", "query_crop: true", "query_crop", True),
    ("--KLSC", "SCKL: true", "SCKL", True),
    ("--T_model resnet34pose", "model: resnet34pose", "model", ["resnet34pose"]),
    ("--T_model resnet34", "model: resnet34pose", "model", ["resnet34pose"]),
    ("--model resnet101pose --T_model resnet101", "model: resnet101pose", "model", ["resnet101pose"]),
    ("--lr 0.001", "image_lr: 0.001", "image_lr", 1e-3),
    ("--dataroot D", "dataset_folder: D", "dataset_folder", "D"),
    ("--name r18/KingsCollege/b500", "exp_name: r18/KingsCollege/b500", "exp_name", "r18/KingsCollege/b500"),
    ("--epochs 7 --niter 7", "epochs: 7", "epochs", 7),
    ("--T_path t.pth", "teacher_weights_path: t.pth", "teacher_weights_path", ["t.pth"]),
    ("--niter 7", "epochs: 7", "epochs", 7),
    ("--batchSize 32", "train_batch_size: 32", "train_batch_size", 32),
    ("--gpu 1", "cuda: 1", "cuda", 1),
    ("--seed 8 --seed 8", "seed: 8", "seed", 8),
    ("--lr 0.01", "lr: 0.01", "image_lr", 0.01),
    ("--niter 3", "niter: 3", "epochs", 3),
    ("--niter 3", "niter: 3\nepochs: 3", "epochs", 3),
    ("--T_model resnet34", "T_model: resnet34", "model", ["resnet34pose"]),
    ("--T_model resnet34 resnet18", "T_model: [resnet34, resnet18]", "model", ["resnet34pose", "resnet18pose"]),
    ("--KLSC", "KLSC: true", "SCKL", True),
    ("--data_dir D", "data_dir: D", "dataset_folder", "D"),
    ("--scales 1 0.5", "scales: [1, 0.5]", "scales", [1.0, 0.5]),
    ("--image_size max1024", "image_size: max1024", "image_size", "max1024"),
]


@pytest.mark.parametrize(("flags", "text", "name", "value"), FORMS)
def test_a_form_means_the_same_on_the_command_line_and_in_yaml(tmp_path, flags, text, name, value):
    assert getattr(read(tmp_path, *flags.split()), name) == value
    assert getattr(from_yaml(tmp_path, text), name) == value


def test_upstreams_readme_command_gives_these_options(tmp_path):
    options = read(tmp_path, *README_COMMAND.split())
    assert (options.model, options.rkdgloss_weight, options.distil_method) == (["minklocmmcat"], 1.0, "ours_rkdg")
    assert (options.train_batch_size, options.epochs, options.milestones, options.seed) == (128, 60, "40", 7)


MISTAKES = [
    ("--epoch 3", "did you mean 'epochs'"),
    ("--epochs three", "--epochs"),
    ("--epochs 3.5", "--epochs"),
    ("--epochs", "expected one argument"),
    ("stray", "unexpected argument 'stray'"),
    ("--weights 0.5_x_0", "--weights"),
    ("--margin nan", "--margin"),
    ("--margin -1", "--margin"),
    ("--train_mode teach", "--train_mode"),
    ("--train_step_type multi_sep", "train_batch_split_size"),
    ("--config absent.yaml", "absent.yaml"),
    ("--batch_size_limit 64", "batch_size_limit"),
    ("--batch_size_limit 256", "batch_expansion_rate"),
    ("--positive_radius 60 --negative_radius 50", "positive_radius"),
    ("--resume maybe", "--resume"),
    ("--model resnet18 --T_model resnet34", "--student_model resnet18pose --T_model resnet34"),
    ("--T_model resnet34pose --model resnet18pose", "calls its student --model"),
    ("--model resnet34 --T_model resnet34", "calls its student --model"),
    ("--niter 6 --epochs 7", "--epochs 7 and --niter 6 are one option"),
    ("--KLSC --SCKL False", "--SCKL False and --KLSC True are one option"),
    ("--T_path a b --teacher_weights_path a", "--teacher_weights_path a and --T_path a b are one option"),
    ("--lr 0.1 --image_lr 0.2", "--image_lr 0.2 and --lr 0.1"),
    ("--dataroot a --dataset_folder b", "one option"),
    ("--name a --exp_name b", "one option"),
    ("--train_mode train_teacher --model minklocmmcat --lr 0.1", "give --cloud_lr and --image_lr"),
    ("--train_mode train_teacher --model minklocmmcat --lr=0.1", "give --cloud_lr and --image_lr"),
    ("--batchsize 3", "did you mean 'batchSize'"),
    ("--pca 8", "--pca is an option of evaluate.py"),
    ("--milestones 10_10", "--milestones: '10_10' names an epoch twice"),
    ("--milestones 80_40", "--milestones: '80_40' is not in rising order: write 40_80"),
    ("--epochs 1_000", "--epochs: write numbers with the digits 0 to 9 alone"),
    ("--margin 0_1.5", "--margin: write numbers"),
    ("--image_lr 1_0e-3", "--image_lr: write numbers"),
    ("--epochs \u0663", "--epochs"),
    ("--epochs \uff11\uff12", "--epochs"),
    ("--margin \u0660.\u0665", "--margin: write numbers"),
    ("--scales 1 1_0", "--scales: write numbers"),
    ("--whiten_dim 1_28", "--whiten_dim: write numbers"),
    ("--milestones 4_\u0660", "--milestones"),
    ("--weights 0.5_\uff11_0", "--weights"),
    ("--image_size \uff12\uff12\uff14", "--image_size"),
]


@pytest.mark.parametrize(("flags", "part"), MISTAKES)
def test_a_mistake_is_one_line_that_names_the_option(tmp_path, flags, part):
    with pytest.raises(UserError) as caught:
        read(tmp_path, *flags.split())
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["epochs: 1_000", "epochs: '\u0663'", "margin: 1_0.5", "scales: [1, 1_0]"])
def test_numbers_in_recipes_are_written_plainly_too(tmp_path, text):
    with pytest.raises(UserError, match=text.split(":")[0]):
        from_yaml(tmp_path, text)


def test_weights_of_terms_are_written_plainly():
    from distilplace.losses.terms import parse_term

    assert parse_term("pkt:1e3").weight == 1000.0
    for text in ("pkt:1_000", "pkt:\u0663"):
        with pytest.raises(UserError, match="finite number"):
            parse_term(text)


def test_unknown_and_wrong_recipe_entries_are_refused(tmp_path):
    with pytest.raises(UserError, match="did you mean 'rkdgloss_weight'"):
        from_yaml(tmp_path, "rkdgloss_wieght: 1")
    with pytest.raises(UserError, match="--epochs"):
        from_yaml(tmp_path, "epochs: many")
    with pytest.raises(UserError, match="valid YAML"):
        from_yaml(tmp_path, "a: [1")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("niter: 3\nepochs: 4", r"^epochs \(recipe .*\) 4 and niter \(recipe .*\) 3 are one option with two values"),
        ("train_mode: train_teacher\nmodel: minklocmmcat\nlr: 0.1", r"^lr: minklocmmcat has rates of its own"),
        ("save_epoch: 5\ndistil_layer1_weight: 3", r"^distil_layer1_weight \(recipe .*\) 3 has no effect here"),
        ("pca: 8", r"^pca \(recipe .*\) is an option of evaluate.py"),
        ("milestones: 9_9", "names an epoch twice"),
    ],
)
def test_recipes_are_held_to_the_same(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        from_yaml(tmp_path, text)


def test_a_recipes_one_rate_may_be_overruled_by_both(tmp_path):
    text = "train_mode: train_teacher\nmodel: minklocmmcat\nlr: 0.1"
    options = from_yaml(tmp_path, text, "--cloud_lr", "0.5", "--image_lr", "0.2")
    assert (options.cloud_lr, options.image_lr) == (0.5, 0.2)


def test_retired_options_of_a_recipe_are_told(tmp_path, log):
    assert from_yaml(tmp_path, "save_weights: True\nepochs: 3\ndistil_layer1_weight: 0").epochs == 3
    assert [line.split(" (recipe")[0] for line in log.messages] == ["save_weights"]
    assert log.messages[0].endswith("has no effect here: weights are always saved")


def test_variables_of_the_environment_have_all_names_and_unknown_ones_are_refused(tmp_path):
    own = {"DISTILPLACE_CACHE": "c", "DISTILPLACE_SHARED": "s", "PATH": "p", "DISTILPLACE": "d"}
    environment = own | {"DISTILPLACE_LR": "0.01", "DISTILPLACE_NITER": "3", "DISTILPLACE_SCMODULE": "4"}
    options = read(tmp_path, environment=environment | {"DISTILPLACE_PCA": "8"})
    assert (options.image_lr, options.epochs, options.SCmodule) == (0.01, 3, ["4"])
    evaluated = parse(EvaluateOptions, ["--weights", "w"], home=tmp_path, environment={"DISTILPLACE_PCA": "8"})
    assert evaluated.pca == 8


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"EPOCH": "3"}, "unknown variable DISTILPLACE_EPOCH in the environment; did you mean DISTILPLACE_EPOCHS"),
        ({"epochs": "3"}, "did you mean DISTILPLACE_EPOCHS"),
        ({"PATH": "p"}, "did you mean DISTILPLACE_PATHS"),
        ({"CONFIG": "c"}, "name it with --config"),
        ({"EPOCHS": "3", "NITER": "4"}, "DISTILPLACE_EPOCHS 3 and DISTILPLACE_NITER 4 are one option with two values"),
        ({"LR": "1", "TRAIN_MODE": "train_teacher"}, "lr: minklocmmcat has rates of its own"),
        ({"DISTIL_LAYER1_WEIGHT": "2"}, "DISTILPLACE_DISTIL_LAYER1_WEIGHT 2 has no effect here"),
    ],
)
def test_mistakes_in_the_environment_are_refused(tmp_path, names, message):
    with pytest.raises(UserError, match=message):
        read(tmp_path, environment={f"DISTILPLACE_{name}": value for name, value in names.items()})


def test_evaluation_names_the_program_that_has_an_option(tmp_path):
    for flag in ("--epochs", "--lr"):
        with pytest.raises(UserError, match=f"{flag} is an option of train.py; omit it here"):
            parse(EvaluateOptions, ["--weights", "w", flag, "3"], home=tmp_path, environment={})


@pytest.mark.parametrize("kind", [TrainOptions, EvaluateOptions])
def test_help_shows_every_option_once_and_common_ones_first(kind):
    groups = grouped_options(kind)
    names = [name for names in groups.values() for name in names]
    assert sorted(names) == sorted(kind.model_fields)
    assert next(iter(groups)) == "common"
    assert {name for name in COMMON if name in kind.model_fields} <= {*groups["common"]}
    assert all(len(names) > 3 for names in groups.values())
    text = flag_parser(kind).format_help()
    titles = [f"{title} options:" for title in groups]
    assert [line for line in text.splitlines() if line.endswith("options:")] == titles
    for name in names:
        assert text.count(f"\n  --{name} ") == 1, name
    assert ("weights" in groups["common"]) == (kind is EvaluateOptions)


def test_flags_beat_recipe_beats_environment_beats_paths_yaml(tmp_path):
    (tmp_path / "paths.yaml").write_text("epochs: 2\nseed: 2\nmargin: 0.2\nimage_lr: 0.2\n")
    (tmp_path / "r.yaml").write_text("epochs: 4\nmargin: 0.4\n")
    environment = {"DISTILPLACE_SEED": "3", "DISTILPLACE_MARGIN": "0.3", "DISTILPLACE_EPOCHS": "3"}
    options = read(tmp_path, "--config", str(tmp_path / "r.yaml"), "--epochs", "5", environment=environment)
    assert (options.epochs, options.margin, options.seed, options.image_lr) == (5, 0.4, 3, 0.2)


def test_folders_of_one_data_set_are_not_used_for_another(tmp_path):
    (tmp_path / "paths.yaml").write_text("dataset: oxford\ndataset_folder: /o\nboreas:\n  dataset_folder: /b\n")
    assert read(tmp_path).dataset_folder == "/o"
    assert read(tmp_path, "--dataset", "boreas").dataset_folder == "/b"
    assert read(tmp_path, "--dataset", "demo").dataset_folder is None
    assert read(tmp_path, "--dataset", "demo", environment={"DISTILPLACE_DATASET": "frames"}).dataset_folder is None


def test_paths_file_elsewhere_and_its_mistakes(tmp_path):
    elsewhere = tmp_path / "mine.yaml"
    elsewhere.write_text("pretrained: none\n")
    assert read(tmp_path, environment={"DISTILPLACE_PATHS": str(elsewhere)}).pretrained == "none"
    with pytest.raises(UserError, match="cannot read"):
        read(tmp_path, environment={"DISTILPLACE_PATHS": str(tmp_path / "gone.yaml")})
    elsewhere.write_text("dataset_foldr: x\n")
    with pytest.raises(UserError, match="did you mean 'dataset_folder'"):
        read(tmp_path, environment={"DISTILPLACE_PATHS": str(elsewhere)})


def test_upstream_compat_sets_what_was_not_said(tmp_path):
    options = read(tmp_path, "--upstream_compat", "--val_fraction", "0.2")
    assert (options.cache_aug, options.legacy_mean, options.val_fraction) == (True, True, 0.2)


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ("--seed 99999999999999999999999", "--seed: the largest is 9223372036854775807"),
        ("--cuda 9223372036854775808", "--cuda: the largest is"),
        ("--scales 0", "--scales: Input should be greater than 0"),
        ("--scales 1 -1", "--scales: Input should be greater than 0"),
        ("--scales 1e9", "--scales: Input should be less than or equal to 10"),
        ("--scales None", "--scales: .*at least 1 item"),
    ],
)
def test_numbers_that_nothing_can_work_with(tmp_path, flags, told):
    with pytest.raises(UserError, match=told):
        read(tmp_path, *flags.split())
    assert read(tmp_path, "--seed", "9223372036854775807").seed == 2**63 - 1


def test_evaluate_takes_the_runs_data_set_but_not_its_loss_weights(tmp_path):
    saved = {"dataset": "frames", "dataset_folder": "/f", "student_output_dim": 64}
    options = parse(EvaluateOptions, ["--weights", "w"], home=tmp_path, saved=saved, environment={})
    assert (options.weights, options.dataset, options.dataset_folder, options.student_output_dim) == (
        "w",
        "frames",
        "/f",
        64,
    )
    other = parse(EvaluateOptions, ["--weights", "w", "--dataset", "demo"], home=tmp_path, saved=saved, environment={})
    assert other.dataset_folder is None
    with pytest.raises(UserError, match="--weights"):
        parse(EvaluateOptions, [], home=tmp_path, saved={"weights": "0.5_0.5_0"}, environment={})


def test_help_lists_every_option(tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        read(tmp_path, "--help")
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert all(f"--{name}" in text for name in TrainOptions.model_fields)
