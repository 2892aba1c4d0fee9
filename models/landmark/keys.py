"""Under which names the published checkpoints of the retrieval teachers store their weights.

A :class:`Layout` says how a file names the parts of a network: trunk, head, exponent. The layouts of a family, our own
first, its authors' second, are rows of :data:`LAYOUTS`. A file is of a family when one of its layouts fits, so a
checkpoint of another network is refused by name before any shape is looked at.

Wrappers (``module.``, {"state_dict": ...} and the like) are gone by then:
:func:`distilplace.models.checkpoints.read_state`.
"""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from torch import Tensor

from distilplace.common.errors import UserError
from distilplace.models.architecture import describe

_SEQUENTIAL = {"conv1.": "0.", "bn1.": "1."} | {f"layer{stage}.": f"{stage + 3}." for stage in (1, 2, 3, 4)}
_SOLAR = {"conv1.": "conv1.0.", "bn1.": "conv1.1.", "layer1.": "conv2_x.2."}
_SOLAR |= {f"layer{stage}.": f"conv{stage + 1}_x." for stage in (2, 3, 4)}
_PYCLS = {"conv1.": "stem.conv.", "bn1.": "stem.bn."}
_PYCLS_BLOCK = {"downsample.0.": "proj.", "downsample.1.": "bn."}
_PYCLS_BLOCK |= {f"conv{n}.": f"f.{letter}." for n, letter in enumerate("abc", 1)}
_PYCLS_BLOCK |= {f"bn{n}.": f"f.{letter}_bn." for n, letter in enumerate("abc", 1)}
_MOST_BLOCKS = 36  # of stage 3, in ResNet-152


class Layout(NamedTuple):
    """How a kind of file names a network."""

    trunk: str
    """What stands before the trunk's keys."""
    head: str = ""
    """The linear layer, without the dot; empty where there is none."""
    style: str = "torchvision"
    """How the trunk's layers are named: by torchvision, "sequential" (numbered), "solar" or "pycls"."""
    power: str = ""
    """The exponent of the pooling: in the file, never read, since the setting ``gem_p`` decides."""
    marks: tuple[str, ...] = ()
    """Beginnings of keys by which the file is known, beside those of the trunk's first stage and of the head."""
    never: tuple[str, ...] = ()
    """Beginnings of keys that only other files have."""
    unused: tuple[str, ...] = ()
    """Beginnings of keys of parts that the file brings and the teacher lacks."""

    def key(self, key: str) -> str:
        """The file's name of a trunk's tensor, of its torchvision name ("layer1.0.conv1.weight")."""
        return self.trunk + _trunk_key(self.style, key)

    def fits(self, keys: Iterable[str]) -> bool:
        """Whether a file with these keys is of this kind."""
        names = tuple(keys)
        wanted = (self.key("layer1.0."), *((f"{self.head}.",) if self.head else ()), *self.marks)
        known = all(any(name.startswith(mark) for name in names) for mark in wanted)
        return known and not any(name.startswith(self.never) for name in names)


_CLASSIFIERS = ("localmodel.", "desc_cls.", "att_cls.")
LAYOUTS: dict[str, tuple[Layout, ...]] = {
    "gem": (
        Layout("model.", "whiten", never=("model.soa",)),
        # filipradenovic/cnnimageretrieval-pytorch: children of the ResNet numbered
        Layout("features.", "whiten", style="sequential", power="pool.p", unused=("pool.",)),
        Layout("", "fc", never=("adpool.",)),  # as Whiten-MTD's authors store that file again
    ),
    "ap_gem": (
        Layout("model.", "fc"),
        Layout("", "fc", power="adpool.p", unused=("adpool.",)),  # naver/deep-image-retrieval
    ),
    "solar": (
        Layout("model.", "whiten", marks=("model.soa4.", "model.soa5.")),
        Layout(  # tonyngjichun/SOLAR; older files have a gamma that nothing reads
            "features.",
            "whiten",
            style="solar",
            power="pool.p",
            marks=("features.soa4.", "features.soa5."),
            unused=("pool.", "features.soa4.gamma", "features.soa5.gamma"),
        ),
    ),
    "delg": (
        Layout("model.", "head_fc"),
        Layout(  # feymanpriv/DELG, which is built on pycls
            "globalmodel.",
            "globalmodel.head.fc",
            style="pycls",
            power="globalmodel.head.pool.p",
            unused=("globalmodel.head.pool.", *_CLASSIFIERS),
        ),
    ),
    "dolg": (
        Layout("model.", "fc_t"),
        Layout(  # feymanpriv/DOLG: fc makes the fused vector out of both branches
            "globalmodel.",
            "fc_t",
            style="pycls",
            power="pool_g.p",
            unused=("pool_g.", "pool_l.", "pool1.", "fc.", *_CLASSIFIERS),
        ),
    ),
    "mocov3": (
        # facebookresearch/moco-v3, and our own
        Layout("base_encoder.", unused=("base_encoder.fc.", "momentum_encoder.", "predictor.")),
    ),
    "barlowtwins": (
        Layout("backbone.", unused=("backbone.fc.", "projector.", "bn.")),  # a training state, and our own
        Layout("", never=("fc.", "adpool.")),  # facebookresearch/barlowtwins: resnet50.pth
    ),
}
OWN = 0
_SELF_SUPERVISED = ("mocov3", "barlowtwins")


def teacher_name(family: str, network: str) -> str:
    """The name that ``create_model`` has for a teacher: "resnet101_gem"; of a rare trunk, "mocov3 on resnet18"."""
    if family in _SELF_SUPERVISED:
        return family if network == "resnet50" else f"{family} on {network}"
    return f"{network}_{family}"


def published_keys(family: str, own: Iterable[str]) -> list[str]:
    """The keys of the authors' checkpoint for a network of ``family`` whose own state-dict keys are ``own``.

    Without wrappers and parts that are not used; with the pooling's exponent where the file has one.
    """
    layout = LAYOUTS[family][min(1, len(LAYOUTS[family]) - 1)]
    return [*_names(family, layout, own).values(), *((layout.power,) if layout.power else ())]


def under_own_names(
    family: str, network: str, own: Iterable[str], state: Mapping[str, Tensor], source: str
) -> dict[str, Tensor]:
    """A file's ``state``, in any layout of ``family``, under the model's own names; unknown keys stay as they are.

    Args:
        family: a key of :data:`LAYOUTS`.
        network: the model's trunk.
        own: the keys of the model's state dict.
        state: the file's state dict.
        source: the file in words, for messages.

    Raises:
        UserError: a checkpoint of another family or trunk (both are named), or of none that is known.

    """
    fitting = [(name, layout) for name, layouts in LAYOUTS.items() for layout in layouts if layout.fits(state)]
    mine = next((layout for name, layout in fitting if name == family), None)
    wanted = teacher_name(family, network)
    found = [(name, layout) for name, layout in fitting if name == family or mine is None]
    names = {teacher_name(name, _network(layout, state)): None for name, layout in found}
    if not names:
        raise UserError(
            f"{source} is of another architecture than the model: it is no checkpoint of {wanted}, nor of any other"
            " retrieval teacher (an image trunk alone is given as --pretrained instead)"
        )
    if wanted not in names or mine is None:
        theirs = " or ".join(names)
        raise UserError(
            f"{source} is of another architecture than the model (network is {theirs} in the file, {wanted} in the"
            f" model): give a checkpoint of {wanted}"
        )
    ours = {theirs: key for key, theirs in _names(family, mine, own).items()}
    return {ours.get(key, key): value for key, value in state.items()}


def unused_parts(family: str) -> tuple[str, ...]:
    """Beginnings of the checkpoint keys, in any layout, that a teacher of ``family`` skips."""
    return tuple(prefix for layout in LAYOUTS[family] for prefix in layout.unused)


def _names(family: str, layout: Layout, own: Iterable[str]) -> dict[str, str]:
    """Own key -> the layout's key."""
    ours = LAYOUTS[family][OWN]
    names = {}
    for key in own:
        trunk = key.startswith(ours.trunk)
        names[key] = layout.key(key.removeprefix(ours.trunk)) if trunk else layout.head + key.removeprefix(ours.head)
    return names


def _network(layout: Layout, state: Mapping[str, Tensor]) -> str:
    """The trunk of a file that ``layout`` fits."""
    blocks = (f"layer3.{block}.conv1.weight" for block in range(_MOST_BLOCKS))
    probes = ("layer1.0.conv1.weight", "layer1.0.conv3.weight", *blocks)
    present = {f"model.{key}": state[layout.key(key)] for key in probes if layout.key(key) in state}
    return str(describe(present).get("network", "unknown"))


def _trunk_key(style: str, key: str) -> str:
    if style == "sequential":
        return _replaced(_SEQUENTIAL, key)
    if style == "solar":
        return _replaced(_SOLAR, key)
    if style == "pycls":
        block = re.match(r"layer(\d)\.(\d+)\.", key)
        if block:
            return f"s{block[1]}.b{int(block[2]) + 1}." + _replaced(_PYCLS_BLOCK, key[block.end() :])
        return _replaced(_PYCLS, key)
    return key


def _replaced(beginnings: Mapping[str, str], key: str) -> str:
    for old, new in beginnings.items():
        if key.startswith(old):
            return new + key.removeprefix(old)
    return key
