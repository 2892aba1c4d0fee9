"""A cosine schedule that moves after every step, as Whiten_MTD's does: its rates by the formula, also resumed."""

import math

import pytest
import torch

from distilplace.common.errors import UserError
from distilplace.engine.optimisation import build_optimizer, build_scheduler
from distilplace.engine.options import TrainOptions


class Toy(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.image, self.cloud = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)

    def branch_parameters(self):
        return {"image": list(self.image.parameters()), "cloud": list(self.cloud.parameters())}


def built(steps: int = 5, **given):
    options = TrainOptions(scheduler="CosineAnnealingLR", epochs=3, image_lr=1e-3, cloud_lr=1e-2, **given)
    optimizer = build_optimizer(options, Toy(), {})
    return optimizer, build_scheduler(options, optimizer, steps)


def rates(optimizer, scheduler, count: int) -> list[tuple[float, ...]]:
    found = []
    for _ in range(count):
        found.append(tuple(group["lr"] for group in optimizer.param_groups))
        optimizer.step()
        scheduler.step()
    return found


def cosine(start: float, end: float, done: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * done)) / 2


def test_the_rates_of_every_step_end_at_the_least_and_stay_there():
    optimizer, scheduler = built(scheduler_step="step", lr_min=1e-6)
    found = rates(optimizer, scheduler, 18)
    for step, (image, cloud) in enumerate(found):
        assert image == pytest.approx(cosine(1e-3, 1e-6, min(step / 15, 1)))
        assert cloud == pytest.approx(cosine(1e-2, 1e-6, min(step / 15, 1)))
    assert found[15] == pytest.approx((1e-6, 1e-6))


def test_by_default_a_cosine_moves_after_every_epoch_down_to_nothing():
    found = rates(*built(), 4)
    assert [image for image, _ in found] == pytest.approx([cosine(1e-3, 0, epoch / 3) for epoch in range(4)], abs=1e-12)


def test_a_schedule_goes_on_from_its_state():
    straight = rates(*built(scheduler_step="step", lr_min=1e-6), 12)
    optimizer, scheduler = built(scheduler_step="step", lr_min=1e-6)
    rates(optimizer, scheduler, 7)
    states = optimizer.state_dict(), scheduler.state_dict()
    again_optimizer, again = built(scheduler_step="step", lr_min=1e-6)
    again_optimizer.load_state_dict(states[0])
    again.load_state_dict(states[1])
    assert rates(again_optimizer, again, 5) == straight[7:]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"lr_min": 0.005}, "--lr_min 0.005 is above the learning rate 0.001 of image"),
        ({"scheduler_step": "step", "batch_expansion_rate": 1.4, "batch_size_limit": 256}, "no fixed number"),
    ],
)
def test_what_cannot_be_scheduled_is_refused(given, message):
    with pytest.raises(UserError, match=message):
        built(**given)
