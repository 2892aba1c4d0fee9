"""The MobileNetV3-Large of WAKD's program (github.com/XuYifan98/WAKD), which is neither the paper's nor torchvision's.

What differs from Howard et al., "Searching for MobileNetV3" (ICCV 2019), and so from torchvision's: the gate
(squeeze-and-excitation) stands behind the projection, has batch norms and does not average over space, so that
every location is gated for itself; stride 32 begins one block later; shortcuts of stride 1 that change the width have a
convolution; the trunk ends in 1x1 convolutions 160 -> 960 -> 512.
"""

from typing import NamedTuple

from torch import Tensor, nn

WIDTH = 512
GATE_REDUCTION = 4


class Step(NamedTuple):
    """One block: kernel side, channels of the expansion and of the output, stride, h-swish or ReLU, gate or none."""

    kernel: int
    expanded: int
    width: int
    stride: int
    swish: bool
    gated: bool


STEPS = (
    Step(3, 16, 16, 1, swish=False, gated=False),
    Step(3, 64, 24, 2, swish=False, gated=False),
    Step(3, 72, 24, 1, swish=False, gated=False),
    Step(5, 72, 40, 2, swish=False, gated=True),
    Step(5, 120, 40, 1, swish=False, gated=True),
    Step(5, 120, 40, 1, swish=False, gated=True),
    Step(3, 240, 80, 2, swish=True, gated=False),
    Step(3, 200, 80, 1, swish=True, gated=False),
    Step(3, 184, 80, 1, swish=True, gated=False),
    Step(3, 184, 80, 1, swish=True, gated=False),
    Step(3, 480, 112, 1, swish=True, gated=True),
    Step(3, 672, 112, 1, swish=True, gated=True),
    Step(5, 672, 160, 1, swish=True, gated=True),
    Step(5, 672, 160, 2, swish=True, gated=True),
    Step(5, 960, 160, 1, swish=True, gated=True),
)
STAGE_ENDS = {0: "stem", 2: "layer1", 5: "layer2", 12: "layer3"}
"""The last block at each resolution: half the image's, a quarter, ..."""
START_WIDTH, WIDENED = 16, 960


def _pointwise(width_in: int, width_out: int) -> nn.Conv2d:
    return nn.Conv2d(width_in, width_out, kernel_size=1, bias=False)


class Gate(nn.Module):
    """[B, C, h, w] times numbers of 0..1 that two 1x1 convolutions with batch norm make of it, location by location."""

    def __init__(self, width: int) -> None:
        super().__init__()
        narrow = width // GATE_REDUCTION
        self.se = nn.Sequential(
            _pointwise(width, narrow),
            nn.BatchNorm2d(narrow),
            nn.ReLU(),
            _pointwise(narrow, width),
            nn.BatchNorm2d(width),
            nn.Hardsigmoid(),
        )

    def forward(self, features: Tensor) -> Tensor:
        """The gated features."""
        return features * self.se(features)


class InvertedResidual(nn.Module):
    """Widen, filter each channel, narrow, gate; with stride 1 a shortcut is added behind the gate."""

    def __init__(self, width: int, step: Step) -> None:
        super().__init__()
        self.conv1, self.bn1 = _pointwise(width, step.expanded), nn.BatchNorm2d(step.expanded)
        self.conv2 = nn.Conv2d(
            step.expanded,
            step.expanded,
            step.kernel,
            step.stride,
            padding=step.kernel // 2,
            groups=step.expanded,
            bias=False,
        )
        self.bn2 = nn.BatchNorm2d(step.expanded)
        self.conv3, self.bn3 = _pointwise(step.expanded, step.width), nn.BatchNorm2d(step.width)
        self.activation = nn.Hardswish() if step.swish else nn.ReLU()
        self.se = Gate(step.width) if step.gated else nn.Identity()
        self.adds = step.stride == 1
        other_width = self.adds and width != step.width
        layers = (_pointwise(width, step.width), nn.BatchNorm2d(step.width)) if other_width else ()
        self.shortcut = nn.Sequential(*layers)

    def forward(self, features: Tensor) -> Tensor:
        """[B, C, h, w] -> [B, width, h / stride, w / stride]."""
        out = self.activation(self.bn1(self.conv1(features)))
        out = self.activation(self.bn2(self.conv2(out)))
        out = self.se(self.bn3(self.conv3(out)))
        return out + self.shortcut(features) if self.adds else out


class MobileNetV3WAKD(nn.Module):
    """The trunk; state-dict keys are those of WAKD's ``MobileNetV3_Large``: ``conv1``, ``bneck.0.conv1``, ...

    Random start as there: convolutions He's normal (fan out), batch norms 1 and 0.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, START_WIDTH, kernel_size=3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(START_WIDTH)
        widths = [START_WIDTH, *(step.width for step in STEPS)]
        self.bneck = nn.Sequential(*(InvertedResidual(w, step) for w, step in zip(widths, STEPS, strict=False)))
        self.conv2, self.bn2 = _pointwise(widths[-1], WIDENED), nn.BatchNorm2d(WIDENED)
        self.conv3, self.bn3 = _pointwise(WIDENED, WIDTH), nn.BatchNorm2d(WIDTH)
        self.activation = nn.Hardswish()
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out")

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """[B, 3, H, W] -> ``stem`` (stride 2), ``layer1`` ... ``layer3``, and ``layer4`` [B, 512, H/32, W/32]."""
        maps: dict[str, Tensor] = {}
        features = self.activation(self.bn1(self.conv1(images)))
        for index, block in enumerate(self.bneck):
            features = block(features)
            if index in STAGE_ENDS:
                maps[STAGE_ENDS[index]] = features
        features = self.activation(self.bn2(self.conv2(features)))
        maps["layer4"] = self.activation(self.bn3(self.conv3(features)))
        return maps

    def before_stride_32(self) -> tuple[nn.Module, ...]:
        """The layers that "conv5" leaves as they are (``distilplace.models.image.vlad``)."""
        return (self.conv1, self.bn1, *list(self.bneck)[: max(STAGE_ENDS) + 1])
