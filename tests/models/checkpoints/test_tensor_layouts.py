"""Tensors of any type, layout and mark come out of a checkpoint as PyTorch means them."""

import pytest
import torch
from torch import nn

from distilplace.models.checkpoints import read_state
from distilplace.models.checkpoints.torch_files import _TABLE, Storage


@pytest.mark.parametrize("legacy", [False, True])
def test_views_types_and_layouts_of_tensors(tmp_path, legacy):
    whole = torch.arange(24.0)
    state = {
        "turned": whole.reshape(4, 6).T,
        "part": whole[5:11],
        "same": whole,
        "channels_last": torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
        "expanded": torch.ones(1).expand(7),
        "scalar": torch.tensor(2.5),
        "none": torch.zeros(0, 3),
        **{
            str(kind): torch.tensor([1, 0, 3]).to(kind)
            for kind in (torch.float64, torch.float16, torch.bfloat16, torch.int8, torch.uint8, torch.int32, torch.bool)
        },
        "complex": torch.tensor([1 + 2j]),
        "float8": torch.tensor([1.0, 2.0]).to(torch.float8_e4m3fn),
        "uint16": torch.tensor([1, 2], dtype=torch.uint16),
    }
    torch.save(state, tmp_path / "a.pth", _use_new_zipfile_serialization=not legacy)
    found = read_state(tmp_path / "a.pth")
    for key, value in state.items():
        assert found[key].dtype == value.dtype
        assert torch.equal(found[key].to(torch.complex64), value.to(torch.complex64)), key


@pytest.mark.parametrize("legacy", [False, True])
def test_signs_and_conjugates_that_torch_has_yet_to_apply(tmp_path, legacy):
    values, others = torch.tensor([1 + 2j, 3 - 4j]), torch.tensor([5 + 6j])
    state = {
        "negative": torch._neg_view(torch.arange(4.0)),
        "conjugate": values.conj(),
        "imaginary": others.conj().imag,
        "both": torch._neg_view(values.conj()),
        "parameter": nn.Parameter(torch._neg_view(torch.arange(4.0))),
    }
    torch.save(state, tmp_path / "a.pth", _use_new_zipfile_serialization=not legacy)
    found = read_state(tmp_path / "a.pth")
    for key, value in state.items():
        assert torch.equal(found[key], value.detach().resolve_conj().resolve_neg()), key


def test_a_mark_of_a_later_torch_is_refused():
    storage = Storage("0", torch.float32, 1)
    made = _TABLE["torch._utils._rebuild_tensor_v2"].function(storage, 0, (1,), (1,), False, {}, {"new": True})
    assert made.kind.startswith("a tensor with the unknown mark new")
