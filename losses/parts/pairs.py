"""Batches of P places, each seen by a query image and by a database image: their rows and their similarities."""

from dataclasses import dataclass

import torch
from torch import Tensor

from distilplace.common.errors import UserError
from distilplace.losses.parts.vectors import unit


@dataclass(frozen=True)
class Pairs:
    """Which rows of the batch are the query and the database image of each place, and which pairs may count."""

    queries: Tensor
    """int64 [P]: row of the query image of place i."""
    database: Tensor
    """int64 [P]: row of the database image of place j."""
    ambiguous: Tensor
    """bool [P, P]: (i, j) are different places of the batch, but not far enough apart to be told from each other."""

    def logits(self, embedding: Tensor, *, fixed: str = "") -> Tensor:
        """Cosines [P, P] of query images (rows) and database images (columns), from embeddings [B, D].

        Ambiguous entries are minus infinity: they take part in no softmax and no ranking.

        Args:
            embedding: of any length; made unit vectors here.
            fixed: ``queries`` or ``database`` get no gradient (the stop-gradient of a Siamese branch); neither: "".

        """
        vectors = unit(embedding)
        queries, database = vectors[self.queries], vectors[self.database]
        queries = queries.detach() if fixed == "queries" else queries
        database = database.detach() if fixed == "database" else database
        return (queries @ database.T).masked_fill(self.ambiguous, -torch.inf)


def pairs_of(embedding: Tensor, negatives_mask: Tensor, pairs: Tensor | None) -> Pairs:
    """The pairs of a batch.

    An entry (i, j), i not j, is ambiguous unless query image i and database image j are negatives of each other:
    images within the radius of one another, and those between the two radii, are neither positives nor negatives.

    Args:
        embedding: [B, D], for its size and device.
        negatives_mask: bool [B, B].
        pairs: int64 [P, 2], rows of the query and of the database image; None: rows (0, 1), (2, 3), ...

    Raises:
        UserError: no ``pairs``, and rows that do not come two by two.

    """
    size, device = len(embedding), embedding.device
    if pairs is None:
        if size == 0 or size % 2:
            raise UserError(f"a batch of {size} rows is not made of pairs: give an even --train_batch_size")
        pairs = torch.arange(size).reshape(-1, 2)
    queries, database = pairs.to(device).unbind(dim=1)
    own = torch.eye(len(queries), dtype=torch.bool, device=device)
    ambiguous = ~negatives_mask.to(device)[queries.unsqueeze(1), database] & ~own
    return Pairs(queries, database, ambiguous)
