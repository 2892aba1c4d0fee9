"""Flags that a tool hands to several runs: each run gets those it reads, what none reads is refused."""

from collections.abc import Sequence

from distilplace.common.home import home
from distilplace.engine.options import TrainOptions
from distilplace.engine.options.aliases import ALIASES
from distilplace.engine.options.command_line import given, parse
from distilplace.engine.options.relevance import refuse_unread, unread


def refuse_in_vain(extra: Sequence[str], runs: Sequence[Sequence[str]]) -> None:
    """Refuse flags that none of the ``runs``, ``train.py`` command lines without them, would read.

    Raises:
        UserError: one line that names them.

    """
    if extra:
        everything = [parse(TrainOptions, [*flags, *extra], home=home(), all_read=False) for flags in runs]
        refuse_unread(everything, given(TrainOptions, extra))


def only_read(flags: Sequence[str]) -> list[str]:
    """A ``train.py`` command line without the options that its run does not read."""
    options = parse(TrainOptions, flags, home=home(), all_read=False)
    vain = set(unread(options, given(TrainOptions, flags)))
    spelled = vain | {alias for name in vain for alias in ALIASES.get(name, ())} | {f"no_{name}" for name in vain}
    kept, keeping = [], True
    for word in flags:
        if word.startswith("--"):
            keeping = word.removeprefix("--").split("=")[0] not in spelled
        if keeping:
            kept.append(word)
    return kept
