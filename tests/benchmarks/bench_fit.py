"""One epoch of a fit against the floor of its two products, and against a DataLoader over HDF5.

    python -m tests.benchmarks.bench_fit [--rows 115846] [--threads 2] [--repeats 5]

Floor: X W^T and dZ^T X at the same batch size, precision and threads, gathered rows given. A
ratio is the median (and the range) of floor / fit over pairs of an epoch of each, run in turn, so
that a slow spell of the machine falls on both. ``plain`` is floor over the same epoch by autograd.
On a machine that others use, ``--threads 1 --clock cpu`` counts processor time.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from functools import partial
from pathlib import Path

import h5py
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ltcache.fit.rows import LabelledRows
from ltcache.fit.task import StageInput
from ltcache.fit.train import train_head
from ltcache.heads import HEADS, HeadContext
from ltcache.losses import LOSSES
from ltcache.methods import Optimisation, Train
from ltcache.objectives import OBJECTIVES
from tests.benchmarks.timing import CLOCKS, Ratio, compare, seconds

CASES = [
    ("linear", "cross_entropy", 2048, "fp32"),
    ("linear", "logit_adjustment", 2048, "fp32"),
    ("cosine", "logit_adjustment", 2048, "fp32"),
    ("linear", "logit_adjustment", 512, "fp32"),
    ("linear", "logit_adjustment", 128, "fp32"),
    ("linear", "logit_adjustment", 2048, "bf16"),
]


def long_tail(rows: int, classes: int) -> Tensor:
    """Return labels of an exponential profile from 256 to 1, sorted, (rows,)."""
    share = torch.logspace(0, -2.4, classes)
    counts = (share / share.sum() * rows).long().clamp(min=1)
    counts[0] += rows - counts.sum()
    return torch.repeat_interleave(torch.arange(classes), counts)


class Problem:
    """Random features with long-tailed labels, and the epochs that are timed on them."""

    def __init__(self, rows: int, dim: int, classes: int, device: str) -> None:
        labels = long_tail(rows, classes)
        features = torch.randn(rows, dim, generator=torch.Generator().manual_seed(0))
        self.rows = LabelledRows(features.to(device), labels.to(device))
        self.classes = classes
        self.context = HeadContext(dim, classes, torch.bincount(labels, minlength=classes))

    def fit(self, head: str, loss: str, batch: int, precision: str, closed: bool) -> None:
        """Train one epoch."""
        model = HEADS[head](self.context).to(self.rows.features.device)
        objective = OBJECTIVES["mean"](LOSSES[loss](self.context.class_counts))
        with torch.no_grad():
            model.set_weight(0.02 * torch.randn(self.classes, self.context.dim))
        how = Optimisation(batch=batch, epochs=1, min_steps=0, precision=precision)  # type: ignore[arg-type]
        stage = Train(optimisation=how)
        generator = torch.Generator().manual_seed(0)
        task = StageInput(self.rows, None, self.context, "none", generator, closed_form=closed)
        train_head(model, objective.to(self.rows.features.device), stage, task)

    def floor(self, batch: int, precision: str) -> None:
        """Make the two products of an epoch."""
        kind = torch.bfloat16 if precision == "bf16" else torch.float32
        rows = self.rows.features[:batch].to(kind)
        new = rows.new_empty
        weight, logits = new(self.classes, rows.shape[1]).normal_(), new(batch, self.classes)
        gradient = torch.empty_like(weight)
        for _ in range(-(-len(self.rows) // batch)):
            torch.mm(rows, weight.T, out=logits)
            torch.mm(logits.T, rows, out=gradient)


class Hdf5Rows(Dataset[tuple[Tensor, int]]):
    """The usual way: a row at a time out of HDF5.

    Args:
        layout: ``contiguous``, or ``appended`` (resizable, HDF5 chooses the chunks: what a loop
            that appends batches leaves behind).
        reopen: open the file for each row, which is how it survives worker processes unharmed;
            else one handle is kept.
    """

    def __init__(self, path: Path, layout: str, reopen: bool) -> None:
        self.path, self.layout, self.reopen = path, layout, reopen
        self.file = h5py.File(path)
        self.features, self.labels = self.file[layout], self.file["labels"][:]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        if self.reopen:
            with h5py.File(self.path) as file:
                return torch.from_numpy(file[self.layout][row]), int(file["labels"][row])
        return torch.from_numpy(self.features[row]), int(self.labels[row])


def loader_epoch(data: Hdf5Rows, problem: Problem, batch: int, share: float, clock: str) -> float:
    """Return seconds of an epoch with a DataLoader, extrapolated from a share of it."""
    model = torch.nn.Linear(problem.context.dim, problem.classes)
    optimiser = torch.optim.AdamW(model.parameters())
    wanted = max(2, int(share * len(data) / batch))
    begin = CLOCKS[clock]()
    for number, (rows, labels) in enumerate(DataLoader(data, batch, shuffle=True)):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(model(rows), labels).backward()
        optimiser.step()
        if number + 1 == wanted:
            break
    return (CLOCKS[clock]() - begin) * len(data) / (wanted * batch)


def report(
    problem: Problem, cases: list[tuple[str, str, int, str]], repeats: int, clock: str
) -> None:
    """Print a line per case: seconds, floor / fit, floor / autograd."""
    print(f"{'head':<8}{'loss':<18}{'batch':>6} {'':<5}{'floor s':>9}{'fit s':>8}", end="")
    print(f"{'floor/fit':>22}{'plain':>22}")
    for head, loss, batch, precision in cases:
        runs = {
            "floor": partial(problem.floor, batch, precision),
            "fit": partial(problem.fit, head, loss, batch, precision, True),
        }
        if precision == "fp32":
            runs["plain"] = partial(problem.fit, head, loss, batch, precision, False)
        times = compare(runs, repeats, clock)
        floor, fit = statistics.median(times["floor"]), statistics.median(times["fit"])
        print(f"{head:<8}{loss:<18}{batch:>6} {precision:<5}{floor:>9.2f}{fit:>8.2f}", end="")
        ratios = [
            Ratio.of(times["floor"], times[name]) for name in ("fit", "plain") if name in times
        ]
        print("".join(f"{ratio!s:>22}" for ratio in ratios), flush=True)


def report_loader(problem: Problem, batch: int, share: float, repeats: int, clock: str) -> None:
    """Print how much longer an epoch takes through a DataLoader over an HDF5 file."""
    peers = [("contiguous", False), ("appended", False), ("contiguous", True)]
    fits: dict[tuple[str, bool], list[float]] = {peer: [] for peer in peers}
    loaders: dict[tuple[str, bool], list[float]] = {peer: [] for peer in peers}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "features.h5"
        features = problem.rows.features.numpy()
        with h5py.File(path, "w") as file:
            file["contiguous"] = features
            file["labels"] = problem.rows.labels.numpy()
            file.create_dataset("appended", data=features, maxshape=(None, features.shape[1]))
        for peer in peers * repeats:
            run = partial(problem.fit, "linear", "cross_entropy", batch, "fp32", True)
            fits[peer].append(seconds(run, clock))
            data = Hdf5Rows(path, *peer)
            loaders[peer].append(loader_epoch(data, problem, batch, share, clock))
    for (layout, reopen), found in loaders.items():
        handle = "opened per row" if reopen else "one handle"
        print(f"DataLoader, HDF5 {layout}, {handle}, batch {batch}: ", end="")
        print(f"{Ratio.of(found, fits[layout, reopen])} times the fit")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=115_846)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--loader-share", type=float, default=0.1, help="of an epoch; 0: leave out")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    problem = Problem(options.rows, options.dim, options.classes, options.device)
    print(f"{options.rows} x {options.dim}, {options.classes} classes, {options.threads} threads")
    report(problem, CASES, options.repeats, options.clock)
    if options.device == "cpu" and options.loader_share:
        for batch in (2048, 128):
            repeats = max(1, options.repeats // 2)
            report_loader(problem, batch, options.loader_share, repeats, options.clock)


if __name__ == "__main__":
    main()
