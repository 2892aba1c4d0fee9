"""Which option named a folder: readers of files in it say so in their messages, whenever they come to read them."""

import os
from pathlib import Path

USUAL = "--dataset_folder"
_NAMED: dict[Path, str] = {}


def name_folder(folder: Path | str, flag: str) -> None:
    """From now on messages about what lies in ``folder`` name ``flag``."""
    for path in (os.path.abspath(os.path.expanduser(folder)), os.path.realpath(os.path.expanduser(folder))):
        _NAMED[Path(path)] = flag


def flag_of(path: Path | str, flag: str = USUAL) -> str:
    """``flag``; where that is the usual one, what named the folder that ``path`` is or lies in, the innermost."""
    if flag != USUAL:
        return flag
    absolute = Path(os.path.abspath(os.path.expanduser(path)))
    return next((_NAMED[each] for each in (absolute, *absolute.parents) if each in _NAMED), USUAL)
