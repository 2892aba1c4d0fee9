"""What the command line accepts and tells: options given twice, flags of the published code without effect."""

import pytest

from tests.engine.options.test_command_line import read


@pytest.mark.parametrize(("flag", "reason"), [("--resume_epoch 5", "--resume auto"), ("--models_dir=x", "run folder")])
def test_flags_of_the_published_code_without_effect_are_told(flag, reason, tmp_path, log):
    read(tmp_path, *flag.split())
    told = log.messages
    assert len(told) == 1
    assert told[0].startswith(flag.split("=")[0].split()[0])
    assert reason in told[0]


@pytest.mark.parametrize(
    ("flags", "name", "value", "told"),
    [
        ("--seed 7 --seed 8", "seed", 8, "--seed is given twice, as 7 and as 8"),
        ("--seed=7 --epochs 2 --seed=8", "seed", 8, "--seed is given twice"),
        ("--niter 7 --niter 8", "epochs", 8, "--niter is given twice"),
        ("--cache_aug --no_cache_aug", "cache_aug", False, "--cache_aug is given twice, as True and as False"),
        ("--scales 1 0.5 --scales 1", "scales", [1.0], "--scales is given twice, as 1 0.5 and as 1:"),
        ("--seed 8 --seed 8", "seed", 8, None),
    ],
)
def test_of_options_given_twice_the_last_counts_and_it_is_told(flags, name, value, told, tmp_path, caplog):
    with caplog.at_level("INFO", logger="distilplace"):
        options = read(tmp_path, *flags.split())
    assert getattr(options, name) == value
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == (told is not None)
    assert told is None or lines[0].startswith(told)
