"""Several sizes of an image, one descriptor."""

import pytest
import torch
from torch import nn

from distilplace.common.errors import UserError
from distilplace.engine.scales import describe_at


class Sums(nn.Module):
    """Describes images by their size and channel sums."""

    def forward(self, batch):
        images = batch["images"]
        size = torch.full((len(images), 1), float(images.shape[-1]))
        return {"embedding": torch.cat([images.sum(dim=(2, 3)), size], dim=1), "width": size}


def test_the_mean_of_unit_descriptors_has_length_one():
    images = torch.rand(3, 3, 8, 12)
    found = describe_at(Sums(), {"images": images}, (1.0, 0.5))
    rows = []
    for image in images:
        half = nn.functional.interpolate(image[None], scale_factor=0.5, mode="bilinear")
        parts = [[*image.sum(dim=(1, 2)).tolist(), 12.0], [*half[0].sum(dim=(1, 2)).tolist(), 6.0]]
        units = [[x / sum(y * y for y in part) ** 0.5 for x in part] for part in parts]
        mean = [(a + b) / 2 for a, b in zip(*units, strict=True)]
        rows.append([x / sum(y * y for y in mean) ** 0.5 for x in mean])
    torch.testing.assert_close(found["embedding"], torch.tensor(rows), rtol=1e-5, atol=1e-6)
    assert found["width"].tolist() == [[12.0]] * 3


def test_a_scale_that_leaves_nothing_is_one_line():
    with pytest.raises(UserError, match="images of 0 x 0 pixels are too small"):
        describe_at(Sums(), {"images": torch.rand(1, 3, 8, 12)}, (1.0, 0.01))


def test_a_whitening_is_applied_at_each_scale_before_the_mean():
    """As Whiten_MTD's evaluation: unit, whitened, unit at each scale, then the mean; not the whitened mean."""
    images = torch.rand(3, 3, 8, 12)
    matrix, mean = torch.randn(2, 4), torch.randn(4)
    found = describe_at(Sums(), {"images": images}, (1.0, 0.5), lambda units: (units - mean) @ matrix.T)["embedding"]
    for image, row in zip(images, found, strict=True):
        total = torch.zeros(2)
        for factor in (1.0, 0.5):
            sized = nn.functional.interpolate(image[None], scale_factor=factor, mode="bilinear")[0]
            vector = torch.cat([sized.sum(dim=(1, 2)), torch.tensor([12.0 * factor])])
            whitened = matrix @ (vector / vector.norm() - mean)
            total += whitened / whitened.norm()
        torch.testing.assert_close(row, total / total.norm(), rtol=1e-5, atol=1e-6)
