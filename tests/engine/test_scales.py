"""Several sizes of an image, one descriptor."""

import torch
from torch import nn

from engine.scales import describe_at


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
