"""One descriptor from several sizes of an image: the mean of unit descriptors (revisitop's multi-scale testing)."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from distilplace.models.image.base import too_small


def describe_at(
    network: nn.Module,
    batch: dict[str, Any],
    scales: Sequence[float],
    project: Callable[[Tensor], Tensor] | None = None,
) -> dict[str, Tensor]:
    """The outputs at the first scale, ``embedding`` being the unit mean of the unit embeddings at all ``scales``.

    Images are resized bilinearly, as in cnnimageretrieval-pytorch (Radenovic et al., TPAMI 2019). ``project``, a
    whitening (CPU [B, D] -> [B, d]), is applied at each scale, between two steps to unit length, as Whiten_MTD's
    evaluation does: whitening is not linear in the mean of unit vectors.
    """
    outputs: dict[str, Tensor] = {}
    total: Tensor | None = None
    for scale in scales:
        found = network({**batch, "images": _resized(batch["images"], scale)})
        outputs = outputs or found
        unit = functional.normalize(found["embedding"].float(), dim=1)
        if project is not None:
            unit = functional.normalize(project(unit.cpu()).to(unit), dim=1)
        total = unit if total is None else total + unit
    assert total is not None
    return {**outputs, "embedding": functional.normalize(total, dim=1)}


def _resized(images: Tensor, scale: float) -> Tensor:
    if scale == 1:
        return images
    height, width = (int(side * scale) for side in images.shape[-2:])
    if min(height, width) < 1:
        raise too_small(height, width)
    return functional.interpolate(images, scale_factor=scale, mode="bilinear", align_corners=False)
