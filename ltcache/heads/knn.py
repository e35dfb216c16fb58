"""k nearest neighbours on the unit sphere (weighted votes as in Wu et al., CVPR 2018)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ltcache.errors import FitError
from ltcache.heads.base import Head, HeadContext
from ltcache.heads.neighbours import label_counts, row_blocks

FLOOR = 1e-6  # share of the votes that all classes split evenly, so that logarithms are finite


class KNNHead(Head):
    """z = log of each class's share of votes; neighbour i of the k nearest votes
    exp(<x, x_i> / temperature), divided by its class's number of rows where ``balanced``.

    All training rows are kept, 4 D bytes each, in the saved head too.

    Args:
        k: neighbours; all rows where there are fewer. temperature: 0.07 in the reference.
        balanced: divide votes by class counts; plain votes follow the class frequencies.
    """

    fixed_representation = True
    sized_by_state = ("keys", "key_labels")
    at_prediction = ("k", "temperature")
    inits = ()
    unit_rows = True
    equation = "z_c = log sum_{i in kNN, y_i = c} exp(x x_i / T) / n_c"
    keys: Tensor
    key_labels: Tensor

    def __init__(
        self,
        context: HeadContext,
        *,
        k: int = 20,
        temperature: float = 0.07,
        balanced: bool = True,
    ) -> None:
        super().__init__(context)
        if k < 1 or temperature <= 0:
            raise FitError(f"head.k={k} and head.temperature={temperature} must be positive")
        self.k, self.temperature, self.balanced = k, temperature, balanced
        # Votes estimate p(y | x) of the training rows; divided by n_c, p(x | y) up to a factor.
        self.residual = 0.0 if balanced else 1.0
        self.register_buffer("keys", torch.zeros(0, context.dim))
        self.register_buffer("key_labels", torch.zeros(0, dtype=torch.int64))

    def normalise(self, representation: Tensor) -> Tensor:
        """See :meth:`Head.normalise`: unit rows."""
        return F.normalize(representation, dim=-1)

    def classify(self, representation: Tensor) -> Tensor:
        """See :meth:`Head.classify`."""
        rows = self.normalise(representation)[0]
        parts = [self.votes(block) for block in row_blocks(rows, len(self.keys))]
        return torch.cat(parts)[None]

    def votes(self, rows: Tensor) -> Tensor:
        """Return the logarithm of the shares of votes, (N, C), for unit rows (N, D)."""
        near, index = (rows @ self.keys.T).topk(min(self.k, len(self.keys)), dim=1)  # (N, k)
        owner = self.key_labels[index]
        # Relative to the nearest, so that no temperature over- or underflows.
        votes = torch.exp((near - near[:, :1]) / self.temperature)
        if self.balanced:
            votes = votes / label_counts(self.key_labels, self.num_classes)[owner]
        shares = votes.new_zeros(len(rows), self.num_classes).scatter_add(1, owner, votes)
        shares = shares / shares.sum(dim=1, keepdim=True)
        return torch.log((1 - FLOOR) * shares + FLOOR / self.num_classes)

    @torch.no_grad()
    def fit(
        self, features: Tensor, labels: Tensor, weights: Tensor | None, context: HeadContext
    ) -> None:
        """Store the rows; weights play no part."""
        self.keys = F.normalize(features, dim=1)
        self.key_labels = labels.clone()
