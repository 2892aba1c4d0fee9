"""Flags that a tool hands to several runs: each run gets those it reads, what none reads is refused."""

from collections.abc import Sequence
from pathlib import Path

from engine.aliases import ALIASES
from engine.command_line import given, parse
from engine.options import TrainOptions
from engine.relevance import refuse_unread, unread

HOME = Path(__file__).resolve().parent.parent


def refuse_in_vain(extra: Sequence[str], runs: Sequence[Sequence[str]]) -> None:
    """Refuse flags that none of the ``runs``, ``train.py`` command lines without them, would read.

    Raises:
        UserError: one line that names them.

    """
    if extra:
        everything = [parse(TrainOptions, [*flags, *extra], home=HOME, all_read=False) for flags in runs]
        refuse_unread(everything, given(TrainOptions, extra))


def only_read(flags: Sequence[str]) -> list[str]:
    """A ``train.py`` command line without the options that its run does not read."""
    options = parse(TrainOptions, flags, home=HOME, all_read=False)
    vain = set(unread(options, given(TrainOptions, flags)))
    spelled = vain | {alias for name in vain for alias in ALIASES.get(name, ())} | {f"no_{name}" for name in vain}
    kept, keeping = [], True
    for word in flags:
        if word.startswith("--"):
            keeping = word.removeprefix("--").split("=")[0] not in spelled
        if keeping:
            kept.append(word)
    return kept
