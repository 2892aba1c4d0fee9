"""Small data sets and random weights in place of the capitals in written commands, and flags that make them short."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torchvision.models import get_model

from distilplace.engine.building import student_settings, teacher_settings
from distilplace.engine.options import EvaluateOptions, OptionGroup, TrainOptions
from distilplace.engine.options.command_line import parse
from distilplace.models import create_model
from distilplace.models.checkpoints import save_weights
from distilplace.models.image.mobilenet_wakd import MobileNetV3WAKD
from tests.commands.written import RUN
from tests.miniature import write_boreas, write_oxford
from tests.miniature_dbstruct import write_pittsburgh, write_tokyo247, write_tokyotm
from tests.miniature_frames import straight, write_run
from tests.miniature_images import numbered, write_images, write_kitti, write_nordland, write_sequences, write_truth
from tests.miniature_landmarks import write_gldv2, write_revisited, write_svd
from tests.miniature_poses import write_cambridge, write_seven_scenes

FOLDERS = ("dataset_folder", "dataroot", "data_dir", "pca_folder", "test_folder", "distractors_folder", "image_path")
POSES = ["--image_size", "48x86", "--crop_size", "40", "--train_batch_size", "6"]
ASHT = ["--image_size", "32x48", "--student_output_dim", "16", "--teacher_output_dim", "16", "--train_batch_size", "8"]
TUPLES = ["--clusters", "4", "--tuple_size", "2", "--neg_num", "2", "--pos_num", "1", "--cache_size", "20"]
WHITEN = ["--whiten_dim", "4", "--train_batch_size", "4"]
SMALLER: dict[str, list[str]] = {
    "oxford": ["--train_batch_size", "8"],
    "boreas": ["--train_batch_size", "8"],
    **dict.fromkeys(("kitti", "sequences", "nordland", "tokyotm"), ASHT),
    "pitts30k": ["--image_size", "96x96", *TUPLES],
    "cambridge": POSES,
    "7scenes": POSES,
    "gldv2": ["--crop_size", "40", "--student_output_dim", "8", *WHITEN],
    "svd": ["--crop_size", "32", "--student_output_dim", "8", *WHITEN],
    "images": ["--image_size", "48x64", "--train_batch_size", "8"],
    "frames": ["--train_batch_size", "8"],
}
"""What training commands on a data set are shortened by."""


def pittsburgh(folder: Path) -> Path:
    """Both sizes in one folder, as people have them."""
    write_pittsburgh(folder, views=6)
    return write_pittsburgh(folder, size="250k", splits=["test"], views=6)


def revisited(folder: Path) -> Path:
    """Both sets, and distractors."""
    write_revisited(folder, distractors=True)
    return write_revisited(folder, "rparis6k")


def own_images(folder: Path) -> Path:
    """24 places with their truth."""
    write_images(folder, numbered(range(24)), numbered(range(24)))
    write_truth(folder, [(name, name) for name in numbered(range(24))])
    return folder


def sequences(folder: Path) -> Path:
    """A remembered and a live sequence with their truth."""
    write_sequences(folder, 24, 24)
    write_truth(folder, [(f"l{5 * k + 96}.png", f"m{3 * k + 7}.png") for k in range(24)])
    return folder


def flat(folder: Path) -> Path:
    """Images of one drive, side by side."""
    write_images(folder, numbered(range(24)), {}, (".", "none"))
    return folder


def drives(folder: Path) -> None:
    """Two traversals of a straight road, with clouds."""
    for number in (0, 1):
        write_run(folder / f"run{number}", straight(400, 5.0, easting=float(number)), seed=number, image_size=(80, 60))


def one_folder(made: tuple[Path, Path], folder: Path) -> None:
    """Data and images of Oxford or Boreas under the names that :meth:`Place._with_folders` expects."""
    for name, found in zip(("D", "I"), made, strict=True):
        (folder / name).symlink_to(found)


WORLDS: dict[str, Callable[[Path], object]] = {
    "oxford": lambda folder: one_folder(write_oxford(folder, runs=3, submaps=12, image_size=(80, 60)), folder),
    "boreas": lambda folder: one_folder(write_boreas(folder, runs=3, submaps=30, image_size=(102, 86)), folder),
    "kitti": lambda folder: write_kitti(folder, clouds=False),
    "sequences": sequences,
    "flat": flat,
    "nordland": lambda folder: write_nordland(folder, "full"),
    "tokyotm": write_tokyotm,
    "tokyo247": lambda folder: write_tokyo247(folder, panoramas=12),
    "pittsburgh": pittsburgh,
    "cambridge": write_cambridge,
    "7scenes": write_seven_scenes,
    "gldv2": write_gldv2,
    "revisited": revisited,
    "svd": lambda folder: write_svd(folder, frames=2),
    "images": own_images,
    "frames": drives,
}


@dataclasses.dataclass
class Place:
    """Where commands are tried: worlds and weights are made on first use."""

    folder: Path
    logs: Path
    run: Path | None = None
    """The folder of the run before."""

    def world(self, name: str) -> Path:
        """The folder of a world."""
        folder = self.folder / name
        if not folder.exists():
            WORLDS[name](folder)
        return folder

    def flags(self, words: list[str]) -> list[str]:
        """The words behind the program, short and with real paths for ``<run>`` and the capitals."""
        program, *rest = words
        if self.run is not None:
            rest = [str(self.run / word.removeprefix(f"{RUN}/")) if word.startswith(RUN) else word for word in rest]
            rest = [str(self.logs / word.removeprefix("logs/")) if word.startswith("logs/") else word for word in rest]
        kind = EvaluateOptions if program == "evaluate.py" else TrainOptions
        rest = self._with_folders(rest, kind)
        rest = [*rest, *shortened(program, self._parsed(kind, rest), rest)]
        return self._with_weights(rest, self._parsed(kind, rest))

    def _parsed(self, kind: type[OptionGroup], words: list[str]) -> Any:
        from distilplace.evaluate import saved_options

        saved = saved_options(words[words.index("--weights") + 1]) if "--weights" in words else None
        return parse(kind, words, home=self.folder, saved=saved, environment={})

    def _with_folders(self, words: list[str], kind: type[OptionGroup]) -> list[str]:
        options = self._parsed(kind, words)
        cities = dict.fromkeys(("pitts30k", "pitts250k"), "pittsburgh")
        own = "flat" if "--data_dir" in words else cities.get(options.dataset, options.dataset)
        found = {"D": own, "my_drives": "frames", "R": "revisited", "F": "revisited", "TOKYO": "tokyo247", "I": own}
        for position in range(1, len(words)):
            if words[position - 1].removeprefix("--") not in FOLDERS or words[position] not in found:
                continue
            pitts = words[position - 1] == "--pca_folder"
            folder = self.world("pittsburgh" if pitts else found[words[position]])
            words[position] = str(folder / words[position] if (folder / words[position]).exists() else folder)
        return words

    def _with_weights(self, words: list[str], options: Any) -> list[str]:
        for flag, count in (("--teacher_weights_path", len(options.model)), ("--T_path", 1)):
            if flag in words:
                start = words.index(flag) + 1
                if Path(words[start]).is_file():  # a run before has trained it
                    continue
                words[start : start + count] = [
                    self.weights(name, teacher_settings(options, name)) for name in options.model
                ]
        if "--pretrained" in words and (at := words.index("--pretrained") + 1) and words[at] == "W":
            learner = options.student_model if "--student_model" in words else options.model[0]
            words[at] = self.trunk(learner)
        if "--weights" in words and words[(at := words.index("--weights") + 1)] == "C":
            student = "--student_model" in words
            name = options.student_model if student else options.model[0]
            words[at] = self.weights(name, (student_settings if student else teacher_settings)(options, name))
        return words

    def weights(self, name: str, settings: dict[str, Any]) -> str:
        """A checkpoint of a network with random weights."""
        settings = {**settings, **({"pretrained": "none"} if "pretrained" in settings else {})}
        path = self.folder / "weights" / f"{name}-{abs(hash(repr(settings)))}.safetensors"
        if not path.is_file():
            path.parent.mkdir(exist_ok=True)
            torch.manual_seed(len(name))
            save_weights(create_model(name, **settings), path)
        return str(path)

    def trunk(self, name: str) -> str:
        """A file of ImageNet weights, random ones."""
        path = self.folder / f"{name}.pth"
        if not path.is_file():
            wakd = name.startswith("mobilenetv3_large_wakd")
            torch.save((MobileNetV3WAKD() if wakd else get_model(name, weights=None)).state_dict(), path)
        return str(path)


def shortened(program: str, options: Any, words: list[str]) -> list[str]:
    """Flags that keep a command as it is and make it short."""
    if program == "evaluate.py":
        sizes = {"--image_size": "64x64", "--query_image_size": "short48", "--pca": "8", "--student_output_dim": "8"}
        found = [text for flag, value in sizes.items() if flag in words for text in (flag, value)]
        found += ["--clusters", "4"] if "netvlad" in " ".join(words) else []
        found += ["--image_size", "96x96"] if "--scales" in words else []
        return [*found, "--val_batch_size", "8"]
    smaller = list(SMALLER[options.dataset])
    teacher = options.train_mode == "train_teacher"
    if teacher and "--student_output_dim" in smaller:
        del smaller[(at := smaller.index("--student_output_dim")) : at + 2]
    if "--batchSize" in words:
        smaller = [{"--train_batch_size": "--batchSize"}.get(word, word) for word in smaller]
    if "--pretrained" not in words:
        smaller += ["--pretrained", "none"]
    if program == "tools.whiten":
        return smaller
    if options.generations > 1:
        smaller += ["--generations", "2"]
    return [*smaller, "--niter" if "--niter" in words else "--epochs", "1", "--val_batch_size", "8"]
