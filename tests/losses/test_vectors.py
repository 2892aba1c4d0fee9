"""Unit vectors: the one helper of the losses."""

import torch

from distilplace.losses.parts.vectors import unit


def test_values_and_gradients_are_torchs_and_missing_directions_are_zero_with_no_gradient():
    x = torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    cotangent = torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for dim in (-1, 1):
        ours, theirs = (x.clone().requires_grad_() for _ in range(2))
        found, wanted = unit(ours, dim), torch.nn.functional.normalize(theirs, dim=dim)
        (found * cotangent).sum().backward()
        (wanted * cotangent).sum().backward()
        assert torch.equal(found, wanted)
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-12, atol=1e-12)
    x[2], x[3, 1] = 0, 1e-13
    x.requires_grad_()
    found = unit(x)
    found.sum().backward()
    assert not found[2].any()
    assert not found[3, 1].any()
    assert x.grad.isfinite().all()
    assert not x.grad[2].any()
    assert not x.grad[3, 1].any()
