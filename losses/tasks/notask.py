"""No task: for methods that learn from their teachers alone, such as Whiten-MTD."""

from collections.abc import Mapping

import torch
from torch import Tensor

from distilplace.losses.tasks.task_loss import Result, TaskLoss


class NoTask(TaskLoss):
    """The task loss ``none``: 0, whatever the masks."""

    reads_masks = False
    layout = "any"

    def forward(
        self, output: Mapping[str, Tensor], positives_mask: Tensor | None = None, negatives_mask: Tensor | None = None
    ) -> Result:
        """A zero with a gradient of zeros in ``output["embedding"]``, and no statistics."""
        embedding = output["embedding"]
        wide = torch.promote_types(embedding.dtype, torch.float32)
        return embedding[:0].to(wide).sum(), {}
