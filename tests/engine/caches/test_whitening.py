"""Teachers that are whitened before they teach: what they hand on, and when a fitted whitening may be used again."""

import torch
from torch import nn
from torch.nn import functional

from distilplace.common.outputs import with_maps
from distilplace.engine.caches.whitening import WhitenedTeacher
from distilplace.engine.teachers.sources import LiveTeacher
from distilplace.models.whitening import Whitening


class Skewed(nn.Module):
    """Embeddings whose numbers have very different spreads."""

    requires = ("images",)

    def forward(self, batch, feature_maps=()):
        maps = dict.fromkeys(feature_maps, batch["images"])
        return {"embedding": batch["images"] * torch.tensor([10.0, 1.0, 0.1, 0.01]), **with_maps(maps)}


def test_embeddings_are_unit_then_whitened_then_unit_and_the_rest_stays():
    images = torch.randn(200, 4, generator=torch.Generator().manual_seed(1))
    teacher = LiveTeacher(Skewed(), ("layer1",))
    plain = teacher.outputs({"images": images})
    unit = functional.normalize(plain["embedding"].double(), dim=1)
    whitening = Whitening.fit(unit, 3)
    found = WhitenedTeacher(teacher, whitening).outputs({"images": images})
    centred = (unit - unit.mean(dim=0)) @ whitening.dvt.T
    expected = centred / centred.norm(dim=1, keepdim=True)
    torch.testing.assert_close(found["embedding"].double(), expected, rtol=1e-5, atol=1e-6)
    assert found["embedding"].dtype == torch.float32
    assert torch.equal(found["maps.layer1"], images)
    covariance = centred.T @ centred / len(centred)
    torch.testing.assert_close(covariance, torch.eye(3, dtype=torch.float64), rtol=0, atol=1e-6)
