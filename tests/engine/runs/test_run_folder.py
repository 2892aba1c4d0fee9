"""Run folders: free names, same options on resume, nothing left of a run that never learnt anything."""

from pathlib import Path

import pytest

from distilplace.common.console import start_console_log
from distilplace.common.errors import UserError
from distilplace.engine.options import TrainOptions
from distilplace.engine.options.command_line import parse
from distilplace.engine.runs.folder import LOG, RunFolder, run_name


def options(folder: Path, *flags: str) -> TrainOptions:
    return parse(TrainOptions, ["--logdir", str(folder), *flags], home=folder, environment={})


def used(folder: RunFolder) -> RunFolder:
    folder.path.mkdir(parents=True)
    (folder.path / "last.ckpt").touch()
    return folder


def fail_in(chosen: TrainOptions, error: BaseException | None = None, *, after_a_step: bool = False) -> None:
    with RunFolder.open(chosen) as folder:
        folder.begin(chosen, "cpu")
        if after_a_step:
            LOG.warning("a line")
            folder.metrics(1, {"train/loss": 1.0})
        raise error or UserError("too bad")


def test_automatic_names_are_numbered_and_given_names_must_be_free(tmp_path):
    first = used(RunFolder.open(options(tmp_path)))
    second = used(RunFolder.open(options(tmp_path)))
    assert second.path.name == f"{first.path.name}-2"
    assert RunFolder.open(options(tmp_path)).path.name == f"{first.path.name}-3"
    assert RunFolder.open(options(tmp_path, "--resume", "auto")).path == first.path
    used(RunFolder.open(options(tmp_path, "--exp_name", "mine")))
    with pytest.raises(UserError, match="--resume auto"):
        RunFolder.open(options(tmp_path, "--exp_name", "mine"))


def test_a_mistake_before_the_first_checkpoint_leaves_nothing(tmp_path):
    chosen = options(tmp_path, "--exp_name", "mine")
    with pytest.raises(UserError, match="too bad"):
        fail_in(chosen)
    assert list(tmp_path.iterdir()) == []


def test_a_mistake_never_removes_what_was_there(tmp_path):
    chosen = options(tmp_path, "--exp_name", "mine", "--resume", "auto")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "note.txt").write_text("keep me")
    with pytest.raises(UserError, match="too bad"):
        fail_in(chosen)
    assert (tmp_path / "mine" / "note.txt").read_text() == "keep me"


def finished(folder: Path, *flags: str) -> Path:
    """A run folder as a run of three epochs leaves it."""
    chosen = options(folder, "--exp_name", "mine", "--epochs", "3", *flags)
    with RunFolder.open(chosen) as run:
        run.begin(chosen, "cpu")
        run.metrics(1, {"train/loss": 1.0})
        (run.path / "last.ckpt").touch()
    return folder / "mine"


def begin(chosen: TrainOptions) -> None:
    start_console_log()
    with RunFolder.open(chosen) as folder:
        folder.begin(chosen, "cpu")


def test_a_mistake_after_a_step_keeps_everything(tmp_path):
    chosen = options(tmp_path, "--exp_name", "mine")
    with pytest.raises(UserError, match="too bad"):
        fail_in(chosen, after_a_step=True)
    assert {"config.yaml", "log.txt", "metrics.jsonl"} <= {path.name for path in (tmp_path / "mine").iterdir()}
    assert "error: too bad" in (tmp_path / "mine" / "log.txt").read_text()
    assert not (tmp_path / "mine" / ".lock").exists()


def test_ctrl_c_before_the_first_step_leaves_nothing(tmp_path):
    chosen = options(tmp_path, "--exp_name", "mine")
    with pytest.raises(KeyboardInterrupt):
        fail_in(chosen, KeyboardInterrupt())
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_is_refused_leaves_the_other_ones_folder_alone(tmp_path):
    chosen = options(tmp_path, "--exp_name", "mine", "--resume", "auto")
    second = RunFolder.open(chosen)
    with RunFolder.open(chosen) as first:
        first.begin(chosen, "cpu")
        with pytest.raises(UserError, match="in use by process"), second:
            second.begin(chosen, "cpu")
        assert (first.path / "config.yaml").is_file()
        assert (first.path / ".lock").is_file()


def test_epochs_may_grow_not_shrink_and_the_name_stays(tmp_path):
    finished(tmp_path)
    resumed = ["--exp_name", "mine", "--resume", "auto"]
    begin(options(tmp_path, *resumed, "--epochs", "5"))
    assert "planned for 3 epochs" in (tmp_path / "mine" / "log.txt").read_text()
    with pytest.raises(UserError, match=r"planned for --epochs 5, now 4: a run can be prolonged, not shortened"):
        begin(options(tmp_path, *resumed, "--epochs", "4"))
    assert run_name(options(tmp_path, "--epochs", "5")) == run_name(options(tmp_path, "--epochs", "9"))
    assert run_name(options(tmp_path, "--margin", "0.5")) != run_name(options(tmp_path))


def test_generations_cannot_be_prolonged(tmp_path):
    finished(tmp_path, "--generations", "2")
    with pytest.raises(UserError, match="with --generations every generation"):
        begin(options(tmp_path, "--exp_name", "mine", "--resume", "auto", "--epochs", "5", "--generations", "2"))


DAMAGED = [
    "",
    "[1, 2]",
    "epochs: [",
    "epochs: 3\nepochs: 4\n",
    "a" * 20,
    "\0",
    "epochs: x\nseed: 7\n",
    "x: 1\n",
    "[" * 3000,
]


@pytest.mark.parametrize("text", DAMAGED)
def test_a_damaged_config_is_one_line(tmp_path, text):
    config = finished(tmp_path) / "config.yaml"
    config.write_text(text)
    with pytest.raises(UserError, match=r"config\.yaml|planned for --epochs x") as caught:
        begin(options(tmp_path, "--exp_name", "mine", "--resume", "auto"))
    assert "--exp_name" in str(caught.value)
    assert config.read_text() == text


def test_a_checkpoint_without_options_is_not_resumed(tmp_path):
    (finished(tmp_path) / "config.yaml").unlink()
    with pytest.raises(UserError, match=r"holds last\.ckpt but no config\.yaml"):
        begin(options(tmp_path, "--exp_name", "mine", "--resume", "auto"))


def test_weights_without_a_checkpoint_are_not_trained_over(tmp_path, capsys):
    folder = finished(tmp_path)
    (folder / "last.ckpt").unlink()
    chosen = options(tmp_path, "--exp_name", "mine", "--resume", "auto", "--epochs", "5")
    begin(chosen)  # killed before its first checkpoint: only numbers are there
    told = capsys.readouterr().out
    assert f"no last.ckpt in {folder}: this run starts over" in told
    assert "prolonged" not in told
    (folder / "models").mkdir()
    (folder / "models" / "best.safetensors").write_text("dear")
    for name in ("config.yaml", "nothing more"):
        with pytest.raises(
            UserError, match=r"holds weights of a run \(best\.safetensors\) but no last\.ckpt"
        ) as caught:
            begin(chosen)
        assert "--exp_name" in str(caught.value)
        (folder / name).unlink(missing_ok=True)  # nor where the options are lost, too
    assert (folder / "models" / "best.safetensors").read_text() == "dear"


@pytest.mark.parametrize("name", ["../../x", "..", ".", "a/../../x", "/tmp/x", "a\tb"])
@pytest.mark.parametrize("resume", ["none", "auto"])
def test_names_that_lead_out_of_the_logdir_are_refused(tmp_path, name, resume):
    with pytest.raises(UserError, match="leads out of --logdir"):
        RunFolder.open(options(tmp_path / "logs", "--exp_name", name, "--resume", resume))
    inside = RunFolder.open(options(tmp_path / "logs", "--exp_name", "group/../set/x", "--resume", resume))
    assert inside.path.resolve() == tmp_path / "logs" / "set" / "x"


def test_names_that_no_folder_can_have_are_one_line(tmp_path):
    with pytest.raises(UserError, match=r"cannot write .*File name too long"):
        RunFolder.open(options(tmp_path, "--exp_name", "x" * 300))
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file is not a folder"):
        RunFolder.open(options(tmp_path, "--exp_name", "file"))


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write .*file/mine: "):
        begin(options(tmp_path / "file", "--exp_name", "mine"))

    def refuse(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("os.open", refuse)
    with pytest.raises(UserError, match=r"cannot write .*mine/\.lock: Read-only file system"):
        begin(options(tmp_path, "--exp_name", "mine"))


@pytest.mark.parametrize("name", ["metrics.jsonl", "log.txt"])
def test_a_full_disk_under_metrics_or_log_is_one_line(tmp_path, name):
    """/dev/full takes nothing."""
    folder = finished(tmp_path)
    (folder / name).unlink()
    (folder / name).symlink_to("/dev/full")
    chosen = options(tmp_path, "--exp_name", "mine", "--resume", "auto", "--epochs", "3")
    with pytest.raises(UserError, match=rf"cannot write .*{name}: No space left on device"):
        fail_in(chosen, after_a_step=True)


def test_leftovers_of_a_killed_save_go_at_the_next_start(tmp_path):
    folder = finished(tmp_path)
    stores = tmp_path / "teacher_stores" / "one"
    stores.mkdir(parents=True)
    left = [folder / ".last.ckpt.ab12_xyz.ckpt", stores / ".outputs.safetensors.abcdefgh.safetensors"]
    for path in left:
        path.write_text("half")
    begin(options(tmp_path, "--exp_name", "mine", "--resume", "auto", "--epochs", "3"))
    assert not any(path.exists() for path in left)
