"""``--logit_mapping_fn centred``: DistilVPR's cross terms with the teacher's centred embeddings."""

import torch
from torch import Tensor

from distilplace.losses import create_distiller

WEIGHTS = {
    "rkdgloss_weight": 1.0,
    **{f"crosslogit{kind}loss_weight_{way}": "1" for kind in ("dist", "sim", "geodist") for way in ("st2ss", "tt2st")},
}


def terms(mapping: str, student: Tensor, teacher: Tensor, aligned: Tensor, name: str = "ours_rkdg"):
    method = create_distiller(name, **WEIGHTS, logit_mapping_fn=mapping)
    return method, method({"embedding": student}, [{"embedding": teacher, "aligned_embedding": aligned}], {})


def test_cross_terms_compare_with_the_aligned_teacher_and_self_terms_with_the_teacher():
    random = torch.Generator().manual_seed(7)
    student, teacher = (torch.randn(6, 8, generator=random, dtype=torch.float64) for _ in range(2))
    aligned = teacher - teacher.mean(dim=0)
    method, found = terms("centred", student, teacher, aligned)
    plain, own = terms("identity", student, teacher, aligned)
    _, across = terms("identity", student, aligned, aligned)
    assert list(found) == list(own)
    assert all(torch.equal(found[name], (own if name == "rkdg" else across)[name]) for name in found)
    assert any(not torch.equal(found[name], own[name]) for name in found)
    assert (method.teacher_requires, method.absolute) == (("aligned_embedding",), True)
    assert (plain.teacher_requires, plain.absolute) == ((), False)
    assert terms("centred", student, teacher, aligned, "rkdg")[0].teacher_requires == ()
