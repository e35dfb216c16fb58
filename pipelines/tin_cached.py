"""TIN on cached features: what do the seesaw and the large-kernel visual attention add?

    python -m pipelines.tin_cached --out tin-results

Both towers frozen, the prompt "The image is a {label}". Rows after table 9 of the source: base (a
cosine head from the class texts, cross entropy), with the simplified seesaw, with the visual
attention on cached token maps followed by the rest of the tower, with both; then the seesaw's p
after table 8. Table 7 with both towers frozen and no head is plain zero-shot.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ltcache.cache import Cache, open_cache
from ltcache.class_texts import add_class_texts
from ltcache.methods import METHODS
from ltcache.report import WRITERS
from pipelines.comparisons import cache_of, compared, difference_table, options

TEMPLATE = "The image is a {}"
POWERS = (0.0, 0.3, 0.5, 0.7, 0.9, 1.1)
ON_VECTORS = {"feature.field": "embedding"}
ON_MAPS = {
    "feature.field": "tokens",
    "feature.transform": "none",
    "head": "visual_attention",
    "optimisation.lr": 1e-3,
    "optimisation.batch": 256,
    "optimisation.epochs": 15,
}
"""Epochs are few since a step passes through the rest of the tower; validation data choose one."""


def main() -> None:
    """Run the comparisons and print their tables."""
    chosen = options(__doc__, "tin-results").parse_args()
    cache = with_template(cache_of(chosen, ("embedding", "pooled", "tokens")), chosen.out)
    chosen.trials = 1
    tables: list[Any] = []
    for name, overrides in (("vectors", ON_VECTORS), ("maps", ON_MAPS)):
        tables.append(
            compared(
                cache,
                ["zero-shot", METHODS["tin"]] if name == "vectors" else [METHODS["tin"]],
                chosen,
                chosen.out / name,
                grid={"loss": ("cross_entropy", "seesaw_static")},
                overrides=overrides,
                prompts="tin",
            )
        )
    tables.append(
        compared(
            cache,
            [METHODS["tin"]],
            chosen,
            chosen.out / "powers",
            grid={"loss.p": POWERS},
            overrides=ON_VECTORS,
            prompts="tin",
        )
    )
    for found in tables:
        print(WRITERS["md"](found.comparison, "test"))
    names = [entry["name"] for entry in tables[0].comparison["entries"]][-2:]
    print(difference_table(cache, tables[0], [(names[0], names[1])])[0])


def with_template(cache: Cache, out: Path) -> Cache:
    """Return the cache with the source's prompt as the set ``tin``."""
    if "tin" in cache.prompt_names:
        return cache
    file = out / "tin-template.txt"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(TEMPLATE + "\n")
    add_class_texts(cache.path, file, name="tin")
    return open_cache(cache.path)


if __name__ == "__main__":
    main()
