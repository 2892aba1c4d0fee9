"""Flags that a tool hands to several runs: each run gets those it reads, what none reads is refused."""

from collections.abc import Sequence

from distilplace.common.home import home
from distilplace.engine.options import TrainOptions
from distilplace.engine.options.command_line import given, last_of_each, parse, without_options
from distilplace.engine.options.relevance import refuse_unread, unread


def refuse_in_vain(extra: Sequence[str], runs: Sequence[Sequence[str]]) -> None:
    """Refuse flags that none of the ``runs``, ``train.py`` command lines without them, would read.

    Raises:
        UserError: one line that names them.

    """
    if extra:
        everything = [
            parse(TrainOptions, last_of_each([*flags, *extra]), home=home(), all_read=False) for flags in runs
        ]
        refuse_unread(everything, given(TrainOptions, extra))


def only_read(flags: Sequence[str]) -> list[str]:
    """A ``train.py`` command line without the options that its run does not read, each as it is said last."""
    flags = last_of_each(flags)
    options = parse(TrainOptions, flags, home=home(), all_read=False)
    return without_options(flags, unread(options, given(TrainOptions, flags)))
