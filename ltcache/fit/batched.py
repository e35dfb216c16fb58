"""Many runs of one architecture as one problem: R heads, each parameter stacked to (R, ...).

Runs share rows, validation rows, batch size, schedule and what the head is made of; they differ in
seed, learning rate, decay, loss and starting weights. Every run draws, weighs and chooses its
epoch as :func:`ltcache.fit.train.train_head` would, so that results agree to rounding. The gain is
the fixed cost of a step, which R runs pay once, and products that keep every core busy.
"""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn import functional as F

from ltcache.fit.rows import LabelledRows
from ltcache.fit.stages import StageTraining
from ltcache.fit.steps import ClosedFormStep, FusionChain
from ltcache.fit.train import TrainingOutcome, draw, optimiser_of, parameters_to_train, set_lr
from ltcache.heads import Head
from ltcache.losses import Loss, OffsetCrossEntropy, offset_cross_entropy_
from ltcache.objectives import HeadOutputs, Objective, TrainingBatch, WeightedMean
from ltcache.sampling import RowsByClass

_BLOCK = 8192  # rows predicted at once, over all runs


def shared_architecture(training: StageTraining) -> tuple[Any, ...] | None:
    """Return what runs must have in common to be one problem; None: this one must run alone.

    Alone are fusions, the full-batch solver, and losses with a state or noise but no closed form.
    """
    head, objective, stage, task = training.head, training.objective, training.stage, training.task
    alone = stage.optimisation.optimiser == "lbfgs"
    if alone or stage.fusion or stage.partner is not None:
        return None
    parameters_to_train(head, stage)  # freezes
    closed = has_closed_form(training)
    if not closed and not _can_be_mapped(training):
        return None
    optimisation = stage.optimisation
    shapes = [(name, p.shape, p.dtype, p.requires_grad) for name, p in head.named_parameters()]
    loss = None if closed else _fingerprint(objective.loss, stage.loss_options)
    return (
        closed, type(head), repr(head.config()), tuple(shapes), _bytes(dict(head.named_buffers())),
        loss, type(objective), repr(stage.objective_options), tuple(stage.lr_factors.items()),
        id(task.rows.features), None if task.val is None else id(task.val.features),
        optimisation.batch, optimisation.epochs, optimisation.min_steps, optimisation.optimiser,
        optimisation.momentum, optimisation.precision,
    )  # fmt: skip


def has_closed_form(training: StageTraining) -> bool:
    """Whether a run's step needs no autograd."""
    rows = training.task.rows
    few = TrainingBatch(rows.features[:2], rows.labels[:2])
    none = FusionChain((), training.task.stream(1))
    closed = training.task.closed_form
    return closed and ClosedFormStep.serves(training.head, training.objective, few, none)


def train_together(
    trainings: Sequence[StageTraining], stops: Sequence[int | None]
) -> list[TrainingOutcome | None]:
    """Train the heads of runs of one :func:`shared_architecture` in place.

    Args:
        stops: epochs after which each run ends; None: all of the schedule.

    Returns:
        For each run what :func:`ltcache.fit.train.train_head` returns; None where the loss is no
        longer finite, in which case the head is of no use.
    """
    order = sorted(range(len(trainings)), key=lambda k: _rank(trainings[k]))
    problem = _BatchedFits([trainings[k] for k in order], [stops[k] for k in order])
    found = dict(zip(order, problem.train(), strict=True))
    return [found[k] for k in range(len(trainings))]


def _rank(training: StageTraining) -> tuple[Any, ...]:
    """Neighbours share a call of their loss, then the rows that they draw, then the optimiser."""
    optimisation = training.stage.optimisation
    loss = _LossGroup.kind(training) if has_closed_form(training) else ()
    return (*loss, drawn_by(training), optimisation.lr, optimisation.weight_decay)


def drawn_by(training: StageTraining) -> str:
    """Return what decides which rows a run draws; runs of one seed often draw the same."""
    state = training.task.generator.get_state().numpy().tobytes()
    return f"{training.stage.sampler} {hashlib.blake2b(state, digest_size=16).hexdigest()}"


class StackedHeads:
    """The parameters of heads of one architecture.

    Attributes:
        head: the first one, for its structure. values: name -> (R, ...), leaves.
    """

    def __init__(self, heads: Sequence[Head]) -> None:
        self.head, self.heads = heads[0], heads
        self.values = {
            name: torch.stack([head.get_parameter(name).detach() for head in heads])
            .requires_grad_(parameter.requires_grad)
            for name, parameter in heads[0].named_parameters()
        }  # fmt: skip

    def __len__(self) -> int:
        return len(self.heads)

    def copy_to(self, kept: dict[str, Tensor], runs: Sequence[int]) -> None:
        """Copy the parameters of some runs to the same places of other tensors."""
        if runs:
            for name, value in self.values.items():
                kept[name][runs] = value.detach()[runs]

    @torch.no_grad()
    def write(self, values: dict[str, Tensor]) -> None:
        """Put stacked values into the heads."""
        for name, value in values.items():
            for head, own in zip(self.heads, value, strict=True):
                head.get_parameter(name).copy_(own)

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for value in self.values.values():
            value.grad = None


class _StackOptimiser:
    """torch's own optimiser, on slices of the stack: neighbours of one rate and decay are one."""

    def __init__(self, trainings: Sequence[StageTraining], stack: StackedHeads) -> None:
        self.stack = stack
        self.pieces: list[tuple[str, slice, Tensor]] = []
        groups: dict[tuple[float, float], list[Tensor]] = {}
        moves = [parameters_to_train(t.head, t.stage) for t in trainings]
        for name in moves[0]:
            rates = [
                (training.stage.optimisation.lr * move[name][0], move[name][1])
                for training, move in zip(trainings, moves, strict=True)
            ]
            for how, span in _spans(rates):
                piece = stack.values[name].detach()[span].requires_grad_()
                self.pieces.append((name, span, piece))
                groups.setdefault(how, []).append(piece)
        settings = [
            {"params": pieces, "weight_decay": decay, "factor": lr}
            for (lr, decay), pieces in groups.items()
        ]
        self.optimiser = optimiser_of(settings, trainings[0].stage.optimisation)

    def step(self, share: float) -> None:
        """Move all runs by a share of their learning rates."""
        set_lr(self.optimiser, share)
        for name, span, piece in self.pieces:
            gradient = self.stack.values[name].grad
            assert gradient is not None
            piece.grad = gradient[span]
        self.optimiser.step()
        self.stack.zero_grad()


def _spans(values: Sequence[Any]) -> Iterator[tuple[Any, slice]]:
    """Return each value with the slice of neighbours that have it."""
    for value, members in groupby(range(len(values)), key=values.__getitem__):
        found = list(members)
        yield value, slice(found[0], found[-1] + 1)


class _BatchedFits:
    """The loop of :func:`ltcache.fit.train.train_head` over R runs."""

    def __init__(self, trainings: Sequence[StageTraining], stops: Sequence[int | None]) -> None:
        self.trainings = trainings
        self.optimisation, self.task = trainings[0].stage.optimisation, trainings[0].task
        self.epochs = self.optimisation.epochs_for(len(self.task.rows))
        self.stops = [min(self.epochs, stop or self.epochs) for stop in stops]
        self.batch = self.optimisation.batch_for(len(self.task.rows))
        self.stack = StackedHeads([training.head for training in trainings])
        kind = steps_for(trainings)
        self.step: ClosedFormSteps | MappedSteps = kind(trainings, self.stack, self.batch)
        self.optimiser = _StackOptimiser(trainings, self.stack)
        self.by_class = RowsByClass.of(self.task.rows.labels, self.stack.head.num_classes)
        self.history: list[list[dict[str, Any]]] = [[] for _ in trainings]
        self.kept = {name: value.detach().clone() for name, value in self.stack.values.items()}
        self.best: list[tuple[tuple[float, float], int] | None] = [None] * len(trainings)
        self.lost = [False] * len(trainings)

    def train(self) -> list[TrainingOutcome | None]:
        """Run all epochs and put what each run keeps into its head."""
        for epoch in range(max(self.stops)):
            losses = self._epoch(epoch)
            self._record(epoch, losses)
        self.stack.write(self.kept)
        for training in self.trainings:
            training.head.eval()
        return [
            None if lost else TrainingOutcome(history, len(history) if best is None else best[1])
            for history, best, lost in zip(self.history, self.best, self.lost, strict=True)
        ]

    def _epoch(self, epoch: int) -> list[float]:
        """Train one epoch and return the mean objective of each run."""
        steps = self.optimisation.steps_per_epoch(len(self.task.rows))
        self.stack.head.train()
        total = torch.zeros(len(self.stack), device=self.task.device)
        for number, index in enumerate(self._draw(epoch, steps)):
            done = (epoch * steps + number) / (self.epochs * steps)
            total += self.step(index, done)
            self.optimiser.step((1 + math.cos(math.pi * done)) / 2)
        return [float(loss) / steps for loss in total]

    def _draw(self, epoch: int, steps: int) -> Sequence[Tensor]:
        """Return the row numbers (R, B) of each step; a run that is over draws no more."""
        if epoch == 0:
            self.orders: list[Tensor] = [torch.empty(0)] * len(self.trainings)
        for run, training in enumerate(self.trainings):
            if epoch < self.stops[run]:
                self.orders[run] = order_of(training, self.by_class, epoch / self.epochs)
        return torch.tensor_split(torch.stack(self.orders).to(self.task.device), steps, dim=1)

    def _record(self, epoch: int, losses: Sequence[float]) -> None:
        """Keep each run's record, and its parameters where this is its best epoch or its last."""
        running = [r for r, stop in enumerate(self.stops) if epoch < stop and not self.lost[r]]
        val = self.task.val
        scores = None if val is None else self.step.scores(val)
        kept = []
        for run in running:
            record: dict[str, Any] = {
                "epoch": epoch + 1, "epochs": self.epochs, "loss": losses[run]
            }  # fmt: skip
            if not math.isfinite(losses[run]):
                self.lost[run] = True
                continue
            if scores is not None:
                record |= scores[run]
                rank = (record["val_mean_per_class"], -record["val_nll"])
                best = self.best[run]
                if best is None or rank > best[0]:
                    self.best[run] = (rank, epoch + 1)
                    kept.append(run)
            elif epoch + 1 == self.stops[run]:
                kept.append(run)
            self.history[run].append(record)
            progress = self.trainings[run].task.progress
            if progress is not None:
                progress(record)
        self.stack.copy_to(self.kept, kept)


def order_of(training: StageTraining, by_class: RowsByClass, progress: float) -> Tensor:
    """Return the row numbers of one epoch of a run, (N,)."""
    (order,) = draw(training.stage.sampler, by_class, training.task, progress, 1)
    assert order is not None
    return order


def steps_for(trainings: Sequence[StageTraining]) -> type[ClosedFormSteps] | type[MappedSteps]:
    """Return the fastest form of a step that serves runs, which lie in order of their rank."""
    if not has_closed_form(trainings[0]):
        return MappedSteps
    draws = [len(list(members)) for _, members in groupby(map(drawn_by, trainings))]
    even = len(set(draws)) == 1 and draws[0] > 1
    one_loss = len({_LossGroup.kind(training) for training in trainings}) == 1
    if even and one_loss and _adds_offset(trainings[0].objective.loss):
        return SharedSteps
    return ClosedFormSteps


class ClosedFormSteps:
    """:class:`ltcache.fit.steps.ClosedFormStep` for R runs: two batched products.

    Args:
        trainings: in the order of the stack. largest: rows of the largest batch.
    """

    def __init__(
        self, trainings: Sequence[StageTraining], stack: StackedHeads, largest: int
    ) -> None:
        self.stack, self.rows = stack, trainings[0].task.rows
        precision = trainings[0].stage.optimisation.precision
        self.exact = self._representation(self.rows)
        self.narrow = torch.bfloat16 if precision == "bf16" else self.exact.dtype
        self.features = self.exact.to(self.narrow)
        self.losses = list(_LossGroup.of(trainings))
        self.affine = _StackedAffine(stack)
        runs, dim, classes = len(stack), self.features.shape[1], stack.head.num_classes
        self.gathered = self.features.new_empty(runs * largest, dim)
        self.logits = self.exact.new_empty(runs * largest * classes)
        self.gradient = self.exact.new_empty(runs, classes, dim)

    @torch.no_grad()
    def _representation(self, rows: LabelledRows) -> Tensor:
        head = self.stack.head
        return head.normalise(head.represent(rows.features))[0]

    def __call__(self, index: Tensor, progress: float) -> Tensor:
        """Put the gradients of the rows ``index`` (R, B) into the stack; return values (R,)."""
        weight, bias = self.affine()
        labels = self.rows.labels[index]
        own = None if self.rows.weights is None else self.rows.weights[index]
        with torch.no_grad():
            rows = self._gather(index)
            logits = self._products(rows, weight, bias)
            values = [
                part(logits[part.span], rows[part.span], labels[part.span],
                     None if own is None else own[part.span], progress)
                for part in self.losses
            ]  # fmt: skip
            gradient = self._weight_gradient(logits, rows)
        self._push(weight, gradient)
        if bias is not None:
            self._push(bias, logits.sum(dim=1))
        return torch.cat(values)

    @staticmethod
    def _push(tensor: Tensor, gradient: Tensor) -> None:
        if tensor.requires_grad and tensor.is_leaf:
            tensor.grad = gradient
        elif tensor.requires_grad:
            tensor.backward(gradient)

    def _gather(self, index: Tensor) -> Tensor:
        flat = index.flatten()
        out = self.gathered[: len(flat)]
        torch.index_select(self.features, 0, flat, out=out)
        return out.view(*index.shape, -1)

    def _products(self, rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        runs, batch, _ = rows.shape
        classes = weight.shape[1]
        logits = self.logits[: runs * batch * classes].view(runs, batch, classes)
        turned = weight.detach().to(self.narrow).transpose(1, 2)
        if self.narrow != logits.dtype:
            logits.copy_(torch.bmm(rows, turned))
        else:
            torch.bmm(rows, turned, out=logits)
        if bias is not None:
            logits += bias.detach()[:, None]
        return logits

    def _weight_gradient(self, change: Tensor, rows: Tensor) -> Tensor:
        if self.narrow != change.dtype:
            return self.gradient.copy_(torch.bmm(change.to(self.narrow).transpose(1, 2), rows))
        return torch.bmm(change.transpose(1, 2), rows, out=self.gradient)

    @torch.no_grad()
    def scores(self, val: LabelledRows) -> list[dict[str, float]]:
        """Return :func:`ltcache.fit.train.choose_by` of each run."""
        weight, bias = self.affine()
        flat = weight.flatten(0, 1)
        shift = None if bias is None else bias.flatten()

        def logits(features: Tensor) -> Tensor:
            head = self.stack.head
            rows = head.normalise(head.represent(features))[0]
            return F.linear(rows, flat, shift).view(len(rows), len(self.stack), -1)

        return _scores(logits, val, len(self.stack), self.stack.head.num_classes)


class SharedSteps(ClosedFormSteps):
    """The same for S seeds x K settings whose runs of a seed draw the same rows: these are gathered
    once, and the two products have K * C columns in place of C.

    Args:
        trainings: seed after seed, their losses cross entropies with or without an offset.
    """

    def __init__(
        self, trainings: Sequence[StageTraining], stack: StackedHeads, largest: int
    ) -> None:
        super().__init__(trainings, stack, largest)
        self.settings = len([t for t in trainings if drawn_by(t) == drawn_by(trainings[0])])

    def __call__(self, index: Tensor, progress: float) -> Tensor:
        """See :class:`ClosedFormSteps`; values are computed as (S, B, K, C)."""
        weight, bias = self.affine()
        runs, classes, dim = weight.shape
        seeds = runs // self.settings
        labels = self.rows.labels[index]
        own = None if self.rows.weights is None else self.rows.weights[index]
        (part,) = self.losses
        with torch.no_grad():
            rows = self._gather(index[:: self.settings])  # (S, B, D)
            wide = weight.detach().reshape(seeds, self.settings * classes, dim)
            shift = None if bias is None else bias.detach().reshape(seeds, -1)
            logits = self._products(rows, wide, shift)  # (S, B, K C)
            row_weights = part.row_weights(rows, labels, own, progress)
            values = part.shared(logits, labels, row_weights, self.settings)
            gradient = self.gradient.view(seeds, -1, dim)
            if self.narrow == logits.dtype:
                torch.bmm(logits.transpose(1, 2), rows, out=gradient)
            else:
                gradient.copy_(torch.bmm(logits.to(self.narrow).transpose(1, 2), rows))
        self._push(weight, self.gradient)
        if bias is not None:
            self._push(bias, logits.sum(dim=1).view(runs, classes))
        return values


class _StackedAffine:
    """Weight (R, C, D') and bias (R, C) or None of R heads, differentiable in the stack."""

    def __init__(self, stack: StackedHeads) -> None:
        self.stack, self.module = stack, _AffineOf(stack.head)
        self.leaves = [self._leaf(tensor) for tensor in self.module()]

    def _leaf(self, tensor: Tensor) -> str | None:
        """Return the name of the parameter that a tensor is, or None for a derived one."""
        return next((n for n, p in self.stack.head.named_parameters() if p is tensor), None)

    def __call__(self) -> tuple[Tensor, Tensor | None]:
        if None not in self.leaves:
            found = tuple(self.stack.values[name] for name in self.leaves if name is not None)
        else:
            named = {f"head.{name}": value for name, value in self.stack.values.items()}
            found = vmap(lambda values: functional_call(self.module, values, ()))(named)
        return found[0], found[1] if len(found) > 1 else None


class _AffineOf(nn.Module):
    """A head whose call is :meth:`Head.affine`, without what is None."""

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.head = head

    def forward(self) -> tuple[Tensor, ...]:
        affine = self.head.affine()
        assert affine is not None
        return tuple(tensor for tensor in affine if tensor is not None)


@dataclass(frozen=True, eq=False)
class _LossGroup:
    """Neighbouring runs whose losses are one call.

    Attributes:
        offsets: of cross entropies with an offset, (r, 1, C), or None for no offset.
    """

    span: slice
    objectives: Sequence[Objective]
    offsets: Tensor | None

    @staticmethod
    def kind(training: StageTraining) -> tuple[str, str, str]:
        """Return what runs share whose losses are one call: cross entropies with any offset, or
        equal losses without state and noise."""
        loss, weighted = training.objective.loss, _is_weighted(training)
        if _adds_offset(loss):
            return ("offset", str(weighted), "")
        if _has_state(loss) or _is_noisy(loss):
            return ("alone", str(weighted), str(id(loss)))
        return ("equal", str(weighted), _fingerprint(loss, training.stage.loss_options))

    @classmethod
    def of(cls, trainings: Sequence[StageTraining]) -> Iterator[_LossGroup]:
        """Part runs, which lie in order of :meth:`kind`."""
        for _, span in _spans([cls.kind(training) for training in trainings]):
            objectives = [training.objective for training in trainings[span]]
            losses = [objective.loss for objective in objectives]
            yield cls(span, objectives, _offsets(losses))

    def __call__(
        self, logits: Tensor, rows: Tensor, labels: Tensor, own: Tensor | None, progress: float
    ) -> Tensor:
        """Overwrite logits (r, B, C) by the gradient and return the objectives (r,)."""
        loss: Any = self.objectives[0].loss
        if _has_state(loss):  # then it is the only one
            loss.observe(labels[0])
        weights = self.row_weights(rows, labels, own, progress)
        flat, targets, weight = logits.flatten(0, 1), labels.flatten(), weights.flatten()
        if _adds_offset(loss):
            if self.offsets is not None:
                logits += self.offsets.to(logits.dtype)
            losses = offset_cross_entropy_(flat, targets, weight)
        else:
            losses, _ = loss.gradient(flat, targets, weight)
        return (losses.view(labels.shape) * weights.to(losses.dtype)).sum(dim=1)

    def shared(self, logits: Tensor, labels: Tensor, weights: Tensor, settings: int) -> Tensor:
        """Overwrite logits (S, B, K C) by the gradient and return the objectives (S K,).

        Args:
            labels, weights: of each run, (S K, B).
        """
        seeds, batch, _ = logits.shape
        wide = logits.view(seeds, batch, settings, -1)
        if self.offsets is not None:
            wide += self.offsets.to(logits.dtype).view(seeds, 1, settings, -1)
        turned = [
            t.view(seeds, settings, batch).transpose(1, 2).flatten() for t in (labels, weights)
        ]
        losses = offset_cross_entropy_(wide.view(len(turned[0]), -1), *turned)
        values = (losses * turned[1].to(losses.dtype)).view(seeds, batch, settings)
        return values.sum(dim=1).flatten()

    def row_weights(
        self, rows: Tensor, labels: Tensor, own: Tensor | None, progress: float
    ) -> Tensor:
        """Return :meth:`Objective.row_weights` of each run, (r, B)."""
        tables = [objective.loss.weights_at(progress) for objective in self.objectives]
        if all(type(objective) is WeightedMean for objective in self.objectives):
            there = [table for table in tables if table is not None]
            if not there and own is None:
                return torch.full(labels.shape, 1 / labels.shape[1], device=labels.device)
            if len(there) in (0, len(tables)):
                weights = own
                if there:
                    by_class = torch.stack(there).gather(1, labels)
                    weights = by_class if own is None else own * by_class
                assert weights is not None
                return weights / weights.sum(dim=1, keepdim=True)
        found = []
        for run, objective in enumerate(self.objectives):
            batch = TrainingBatch(rows[run], labels[run], None if own is None else own[run])
            weights = objective.row_weights(batch, progress)
            assert weights is not None
            found.append(weights)
        return torch.stack(found)


def _adds_offset(loss: Loss) -> bool:
    kind: Any = type(loss)
    known = issubclass(kind, OffsetCrossEntropy)
    return known and kind.gradient is OffsetCrossEntropy.gradient and not _has_state(loss)


def _offsets(losses: Sequence[Loss]) -> Tensor | None:
    """Return the offsets of cross entropies, (r, 1, C), zero where one has none."""
    found = [getattr(loss, "offset", None) for loss in losses]
    if not _adds_offset(losses[0]) or all(offset is None for offset in found):
        return None
    none = torch.zeros_like(losses[0].prior)
    return torch.stack([none if offset is None else offset for offset in found])[:, None]


def _has_state(loss: Loss) -> bool:
    return type(loss).observe is not Loss.observe


def _is_weighted(training: StageTraining) -> bool:
    return training.objective.loss.class_weights is not None


@torch.no_grad()
def _is_noisy(loss: Any) -> bool:
    """Whether a loss draws from its generator, which is left as it was."""
    state = loss.generator.get_state()
    logits = loss.prior.new_zeros(1, len(loss.prior), dtype=torch.float32)
    loss.gradient(logits, torch.zeros(1, dtype=torch.int64, device=logits.device), logits[:, 0] + 1)
    noisy = not torch.equal(state, loss.generator.get_state())
    loss.generator.set_state(state)
    return noisy


def _fingerprint(loss: Loss, options: Any) -> str:
    return f"{type(loss).__module__}.{type(loss).__qualname__} {sorted(options.items())} " + _bytes(
        dict(loss.named_buffers())
    )


def _bytes(tensors: dict[str, Tensor]) -> str:
    """Return a hash of named tensors."""
    found = hashlib.blake2b(digest_size=16)
    for name, tensor in tensors.items():
        found.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        found.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


class _HeadWithObjective(nn.Module):
    """A head and its objective: (features, labels, weights, progress) -> scalar."""

    def __init__(self, head: Head, objective: Objective) -> None:
        super().__init__()
        self.head, self.objective = head, objective

    def forward(
        self, features: Tensor, labels: Tensor, weights: Tensor | None, progress: float
    ) -> Tensor:
        representation = self.head.represent(features)
        experts = self.head.classify(representation)
        outputs = HeadOutputs(representation, experts, self.head.combine(experts))
        value: Tensor = self.objective(outputs, TrainingBatch(features, labels, weights), progress)
        return value


class MappedSteps:
    """:class:`ltcache.fit.steps.AutogradStep` for R runs with equal losses, by ``torch.func.vmap``.

    Args: as of :class:`ClosedFormSteps`.
    """

    def __init__(
        self, trainings: Sequence[StageTraining], stack: StackedHeads, largest: int
    ) -> None:
        self.stack, self.rows = stack, trainings[0].task.rows
        self.whole = _HeadWithObjective(stack.head, trainings[0].objective)

    def __call__(self, index: Tensor, progress: float) -> Tensor:
        """See :class:`ClosedFormSteps`."""
        rows = self.rows
        features = rows.features.index_select(0, index.flatten()).view(*index.shape, -1)
        own = None if rows.weights is None else rows.weights[index]
        values = self.values(features, rows.labels[index], own, progress)
        values.sum().backward()
        return values.detach()

    def values(
        self, features: Tensor, labels: Tensor, own: Tensor | None, progress: float
    ) -> Tensor:
        """Return the objectives (R,) of features (R, B, D), differentiable in the stack."""
        named = {f"head.{name}": value for name, value in self.stack.values.items()}

        def value(
            parameters: dict[str, Tensor], features: Tensor, labels: Tensor, own: Tensor | None
        ) -> Tensor:
            inputs = (features, labels, own, progress)
            found: Tensor = functional_call(self.whole, parameters, inputs)
            return found

        where = (0, 0, 0, None if own is None else 0)
        found: Tensor = vmap(value, in_dims=where)(named, features, labels, own)
        return found

    @torch.no_grad()
    def scores(self, val: LabelledRows) -> list[dict[str, float]]:
        """See :class:`ClosedFormSteps`."""
        head = self.stack.head.eval()

        def logits(features: Tensor) -> Tensor:
            call = vmap(lambda values, x: functional_call(head, values, (x,)), in_dims=(0, None),
                        out_dims=1)  # fmt: skip
            found: Tensor = call(self.stack.values, features)
            return found

        return _scores(logits, val, len(self.stack), head.num_classes)


def _can_be_mapped(training: StageTraining) -> bool:
    """Whether ``vmap`` can follow a head and its objective, tried on two rows."""
    rows = training.task.rows
    if _has_state(training.objective.loss):
        return False
    training.head.train()
    steps = MappedSteps([training], StackedHeads([training.head]), 2)
    own = None if rows.weights is None else rows.weights[None, :2]
    try:
        with warnings.catch_warnings():  # an operation that vmap makes run by run gains nothing
            warnings.filterwarnings("error", message="There is a performance drop")
            for progress in (0.0, 1.0):
                steps.values(rows.features[None, :2], rows.labels[None, :2], own, progress)
            steps.scores(LabelledRows(rows.features[:2], rows.labels[:2]))
    except (RuntimeError, NotImplementedError, ValueError, TypeError, UserWarning):
        return False
    finally:
        training.head.train()
    return True


@torch.no_grad()
def _scores(logits: Any, val: LabelledRows, runs: int, classes: int) -> list[dict[str, float]]:
    """Return overall and mean accuracy per class and NLL of each run.

    Args:
        logits: features (n, D) -> (n, R, C).
    """
    block = max(1, _BLOCK // runs)
    right, nll = torch.zeros(len(val), runs), torch.zeros(runs, dtype=torch.float64)
    for start in range(0, len(val), block):
        labels = val.labels[start : start + block]
        found = logits(val.features[start : start + block])
        right[start : start + block] = (found.argmax(dim=2) == labels[:, None]).float().cpu()
        losses = F.cross_entropy(
            found.flatten(0, 1), labels.repeat_interleave(runs), reduction="none"
        )
        nll += losses.view(-1, runs).sum(dim=0).double().cpu()
    labels = val.labels.cpu()
    rows = torch.bincount(labels, minlength=classes)
    hits = torch.zeros(classes, runs, dtype=torch.float64).index_add_(0, labels, right.double())
    present = rows > 0
    per_class = (hits[present] / rows[present, None]).mean(dim=0)
    return [
        {"val_overall": overall, "val_mean_per_class": mean, "val_nll": loss / len(val)}
        for overall, mean, loss in zip(
            right.double().mean(dim=0).tolist(), per_class.tolist(), nll.tolist(), strict=True
        )
    ]
