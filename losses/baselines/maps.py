"""Baselines on feature maps [B, C, h, w] of one layer; read at several layers, a term is the sum over them.

Maps of different size are brought together; ``hint`` and ``vid`` own the layers that bridge different channel counts.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distilplace.common.randomness import forked_random_state
from distilplace.losses.baselines.units import Start, flat, same_batch, to_size, to_smaller
from distilplace.losses.parts.checks import Switch
from distilplace.losses.parts.vectors import unit

VID_INITIAL_VARIANCE = 5.0
VID_LEAST_VARIANCE = 1e-5


def at(student: Tensor, teacher: Tensor) -> Tensor:
    """Attention transfer, Zagoruyko & Komodakis (ICLR 2017), p = 2: ``MSE(n(mean_c s^2), n(mean_c t^2))``.

    The larger map is averaged to the size of the smaller; channel counts may differ.
    """
    same_batch(student, teacher)
    found, wanted = (unit(flat(x.square().mean(dim=1))) for x in to_smaller(student, teacher))
    return F.mse_loss(found, wanted)


def nst(student: Tensor, teacher: Tensor) -> Tensor:
    """Neuron selectivity transfer, Huang & Wang (arXiv 1707.01219): squared MMD with the kernel ``<f, g>^2``.

    Each channel is a unit vector over the places of the map; means are over the channel pairs of every image.
    """
    same_batch(student, teacher)
    s, t = (unit(x.flatten(start_dim=2)) for x in to_smaller(student, teacher))

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return (x @ y.transpose(1, 2)).square().mean()

    return kernel(t, t) + kernel(s, s) - 2 * kernel(s, t)


class Regressor(nn.Module):
    """A student's map in the shape of the teacher's: 1x1 convolution where channel counts differ, then resized."""

    def __init__(self, start: Start, *, batch_norm: bool = False) -> None:
        super().__init__()
        channels = start.student.shape[1], start.teacher.shape[1]
        layers: list[nn.Module] = []
        if channels[0] != channels[1]:
            with forked_random_state(start.seed):
                layers.append(nn.Conv2d(*channels, kernel_size=1, bias=not batch_norm))
            layers += [nn.BatchNorm2d(channels[1])] * batch_norm
        self.layers = nn.Sequential(*layers)

    def forward(self, student: Tensor, size: tuple[int, int]) -> Tensor:
        """[B, C, h, w] to [B, C', *size]."""
        parameter = next(self.parameters(), student)
        return to_size(self.layers(student.to(parameter.dtype)), size)


class Hint(nn.Module):
    """FitNets' hint, Romero et al. (ICLR 2015): ``MSE(R(s), t)``, R the identity where the channel counts agree.

    ``hint_batch_norm``: R's convolution is followed by batch normalisation, as in RepDistiller.
    """

    def __init__(self, start: Start, *, hint_batch_norm: Switch = False) -> None:
        super().__init__()
        self.regressor = Regressor(start, batch_norm=hint_batch_norm)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The scalar of maps [B, C, h, w] and [B, C', h', w']."""
        same_batch(student, teacher)
        found = self.regressor(student, (teacher.shape[2], teacher.shape[3]))
        return F.mse_loss(found, teacher.to(found.dtype))


class VID(nn.Module):
    """Variational information distillation, Ahn et al. (CVPR 2019).

    ``mean 1/2 [(mu(s) - t)^2 / v_c + log v_c]``: mu three 1x1 convolutions with ReLU between, ``v_c`` a learned
    variance per channel, 5 at first. May be negative; in the smaller size of the two maps.
    """

    def __init__(self, start: Start) -> None:
        super().__init__()
        width, wanted = start.student.shape[1], start.teacher.shape[1]
        with forked_random_state(start.seed):
            self.mean = nn.Sequential(
                nn.Conv2d(width, wanted, kernel_size=1, bias=False),
                nn.ReLU(),
                nn.Conv2d(wanted, wanted, kernel_size=1, bias=False),
                nn.ReLU(),
                nn.Conv2d(wanted, wanted, kernel_size=1, bias=False),
            )
        inverse_softplus = math.log(math.expm1(VID_INITIAL_VARIANCE - VID_LEAST_VARIANCE))
        self.log_scale = nn.Parameter(torch.full((wanted,), inverse_softplus))

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The scalar of maps [B, C, h, w] and [B, C', h', w']."""
        same_batch(student, teacher)
        s, t = to_smaller(student.to(self.log_scale.dtype), teacher.to(self.log_scale.dtype))
        variance = (F.softplus(self.log_scale) + VID_LEAST_VARIANCE).view(1, -1, 1, 1)
        return ((self.mean(s) - t).square() / variance + variance.log()).mean() / 2
