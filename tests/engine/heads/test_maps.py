"""The teacher as the model of a map: its weights file gives the space that students aim at."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from distilplace.engine.caches.whitening import WhitenedTeacher
from distilplace.engine.heads.maps import add_space, save_map_models
from distilplace.engine.teachers.aligned import AlignedTeacher
from distilplace.engine.teachers.sources import LiveTeacher, StoredTeacher
from distilplace.engine.teachers.space import fit_space
from distilplace.models.whitening import Whitening
from tests.engine.toy_run import ToyNet


def test_teachers_that_are_not_compared_one_by_one_make_no_map(tmp_path):
    options = SimpleNamespace(model=["a"], teacher_weights_path=[str(tmp_path / "w")])
    context = SimpleNamespace(options=options)
    assert save_map_models(context, [LiveTeacher(ToyNet())], tmp_path / "models", None) == ()
    assert list(tmp_path.iterdir()) == []


@torch.no_grad()
@pytest.mark.parametrize("whitened", [False, True])
@pytest.mark.parametrize(("kind", "dim"), [("raw", None), ("centred", None), ("whitened", 4)])
def test_the_head_is_the_space_that_students_are_compared_in(kind, dim, whitened):
    batch = {"images": 4 * torch.randn(20, 3, 8, 8)}
    source, keys = LiveTeacher(ToyNet(seed=2)), [str(row) for row in range(20)]
    if whitened:
        unit = torch.nn.functional.normalize(source.outputs(batch)["embedding"].double(), dim=1)
        source = WhitenedTeacher(source, Whitening.fit(unit, 5))
    outputs = source.outputs(batch)["embedding"]
    teacher = AlignedTeacher(source, fit_space(kind, outputs, dim), StoredTeacher({"embedding": outputs}, keys, Path()))
    network = ToyNet(seed=2).eval()
    add_space(network, teacher)
    wanted = teacher.outputs(batch)["aligned_embedding"]
    assert network.output_dim == wanted.shape[1]
    torch.testing.assert_close(network(batch)["embedding"], wanted.float(), rtol=0, atol=1e-3)
