"""Which files of a folder are images: listing at any depth, counting what is left out, refusing what would hang."""

import os
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from distilplace.common.decoding import USUAL, described_depth, image_suffixes, require_regular_file
from distilplace.common.errors import UserError
from distilplace.common.inputs.folder_flags import flag_of
from distilplace.common.inputs.text_files import read_lines

HEIC = (".heic", ".heif")


class Alert(str):
    """A note that is a warning, too: logged as one when the data set is created."""

    __slots__ = ()


@dataclass
class Tally:
    """What a folder holds, by suffix: images taken, and files left out with the first name of each kind."""

    taken: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)

    def leave_out(self, name: str, kind: str | None = None) -> None:
        """Count what is not taken, by ``kind`` or its suffix."""
        kind = kind or shown(os.path.splitext(name)[1].lower()) or "without suffix"
        self.left_out[kind] += 1
        self.first.setdefault(kind, shown(name))

    def notes(self, folder: str) -> list[str]:
        """Lines for the log: the suffixes, where there are several, and what was left out."""
        lines = []
        if len(self.taken) > 1:
            lines.append(f"{folder}: images of several suffixes, all read: {_counts(self.taken)}")
        if self.left_out:
            lines.append(f"{folder}: {self.described()} left out{self.remedy()}")
        return lines

    def described(self) -> str:
        """What was left out: "3 entries (2 .txt such as notes.txt, 1 hidden such as .a.jpg)"."""
        kinds = ", ".join(f"{count} {kind} such as {self.first[kind]}" for kind, count in self.left_out.most_common())
        total = self.left_out.total()
        return f"{total} entr{'y' if total == 1 else 'ies'} ({kinds})"

    def remedy(self) -> str:
        """How to read HEIC files where some were left out."""
        return "; pip install pillow-heif reads HEIC" if any(self.left_out[suffix] for suffix in HEIC) else ""


@dataclass(frozen=True)
class FoundImages:
    """The images below a folder, sorted by path, and notes on the others."""

    files: list[Path]
    notes: list[str]


def find_images(folder: Path) -> FoundImages:
    """All images below ``folder``, by suffix in any case; hidden entries are left out.

    A list beside it, ``<folder>_images_paths.txt`` with one path below the folder per line, saves looking through it.

    Raises:
        UserError: no such folder, no image in it, something named like an image that is no file, a link that leads back
            to a folder above it, or a list whose first or last image is missing.

    """
    listed = folder.with_name(f"{folder.name}_images_paths.txt")
    if listed.is_file():
        files = _listed_files(listed, folder)
        return FoundImages(files, [f"{folder.name}: {len(files)} images as {listed.name} lists them"])
    if not folder.is_dir():
        raise UserError(f"image folder {folder} does not exist: check {flag_of(folder)}")
    tally = Tally()
    found: list[Path] = []
    _walk(folder, (), tally, found)
    if not found:
        there = f": it holds {tally.described()}{tally.remedy()}" if tally.left_out else ""
        raise UserError(f"image folder {folder} holds no image ({USUAL}){there}: check {flag_of(folder)}")
    return FoundImages(sorted(found, key=str), tally.notes(folder.name))


def depth_notes(folder: str, first: Path) -> list[str]:
    """A note where the first image of a folder loses something in decoding; none where it cannot be decoded (yet)."""
    try:
        lost = described_depth(first)
    except UserError:
        return []
    return [] if lost is None else [(Alert if lost.dark else str)(f"{folder}: {first.name}: {lost.text}")]


def files_by_stem(folder: Path, suffixes: Iterable[str], tally: Tally, what: str = "image") -> dict[str, Path]:
    """Name without suffix -> file, of the files directly in ``folder`` with one of ``suffixes`` (any case).

    ``what`` they are is said in errors; the others are counted in ``tally``.

    Raises:
        UserError: two files of one name, or something named like one that is no regular file.

    """
    wanted = tuple(suffixes)
    files: dict[str, Path] = {}
    for entry in entries_of(folder):
        stem, suffix = os.path.splitext(entry.name)
        if suffix.lower() not in wanted:
            if not entry.name.startswith("."):
                tally.leave_out(entry.name, "folder" if entry.is_dir() else None)
            continue
        if entry.name.startswith("."):
            tally.leave_out(entry.name, "hidden")
            continue
        _require_file(entry, what)
        if stem in files:
            raise UserError(f"{folder}: two files for frame {stem}: {files[stem].name} and {entry.name}: remove one")
        files[stem] = folder / entry.name
        tally.taken[suffix.lower()] += 1
    return files


def _walk(folder: Path, above: tuple[tuple[int, int], ...], tally: Tally, found: list[Path]) -> None:
    try:
        status = folder.stat()
    except OSError as error:
        raise UserError(f"folder {folder} cannot be read ({error.strerror})") from error
    identity = (status.st_dev, status.st_ino)
    if identity in above:
        raise UserError(f"{folder} is a link to a folder above it: remove the link")
    for entry in entries_of(folder):
        suffix = os.path.splitext(entry.name)[1].lower()
        if entry.name.startswith("."):
            if suffix in image_suffixes():
                tally.leave_out(entry.name, "hidden")
        elif suffix in image_suffixes():
            _require_file(entry, "image")
            found.append(folder / entry.name)
            tally.taken[suffix] += 1
        elif entry.is_dir():
            _walk(folder / entry.name, (*above, identity), tally, found)
        else:
            tally.leave_out(entry.name)


def entries_of(folder: Path) -> list[os.DirEntry[str]]:
    """What ``folder`` holds, sorted by name; :class:`UserError` when it cannot be looked into."""
    try:
        with os.scandir(folder) as opened:
            return sorted(opened, key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"folder {folder} cannot be read ({error.strerror})") from error


def _require_file(entry: os.DirEntry[str], what: str) -> None:
    """:class:`UserError` unless it is a regular file whose path can be written into reports."""
    require_text_path(entry.path, what)
    if entry.is_symlink() or not entry.is_file():  # regular files cost no further call
        require_regular_file(Path(entry.path), what)


def require_text_path(path: str, what: str) -> None:
    """:class:`UserError` where a path cannot be written into logs and reports: its bytes are no UTF-8."""
    if shown(path) != path:
        raise UserError(f"{what} {shown(path)} has a name that is no UTF-8: rename it")


def shown(name: str) -> str:
    """A file name with bytes that are no UTF-8 written as escapes."""
    return name.encode("utf-8", "backslashreplace").decode()


def _counts(kinds: Counter[str]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())


def _listed_files(listed: Path, folder: Path) -> list[Path]:
    lines = read_lines(listed, "image list", "remove it, or write one path per line")
    found = sorted((folder / line for _, line in lines), key=str)
    if twice := [path for path, count in Counter(found).items() if count > 1]:
        raise UserError(f"image list {listed} names {len(twice)} paths twice, such as {twice[0]}: correct it")
    for path in (found[0], found[-1]):
        if not path.is_file():
            raise UserError(f"image list {listed}: {path} does not exist: remove the list, or write it again")
    return found


def natural_order(name: str) -> tuple[list[tuple[str, int]], str]:
    """A sort key by which ``db2`` comes before ``db10``; equal numbers written differently fall back to the text."""
    words = re.split(r"([0-9]+)", name)
    return [(words[i], int(words[i + 1]) if i + 1 < len(words) else -1) for i in range(0, len(words), 2)], name
