#!/usr/bin/env bash
# A newcomer's walk from `inspect` to `predict`, on a folder of class folders without splits, with a
# page of the report and one of the images on the way.
#
#     tests/walk_through.sh [LTCACHE]     the executable; by default `ltcache` of PATH
#
# Every command runs in a terminal of 80 columns (util-linux' script). The walk fails at a status
# that is not 0, a traceback, a table line that is longer than the terminal, and progress that is
# mixed with text: what tests/terminal.py finds on the screen.
set -euo pipefail

ltcache=$(command -v "${1:-ltcache}") || { echo "no ${1:-ltcache}"; exit 2; }
ltcache=$(realpath -s "$ltcache")
python=$(dirname "$ltcache")/python
tests=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
unset COLUMNS LINES
export TERM=xterm LC_ALL=C.UTF-8 HF_HUB_OFFLINE=1

"$python" - <<'PY'
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = {"red fox": 30, "blue jay": 24, "Grünfink": 16, "moth (night)": 8, "newt": 6}
SUFFIXES = (".png", ".jpg", ".JPG", ".jpeg")
rng = np.random.default_rng(0)
for label, (name, count) in enumerate(CLASSES.items()):
    folder = Path("my photos") / name
    folder.mkdir(parents=True)
    color = np.random.default_rng(label).integers(0, 256, 3)
    for number in range(count):
        noise = rng.integers(-40, 40, (64, 64, 3))
        pixels = np.clip(color + noise, 0, 255).astype(np.uint8)
        file = f"Foto {number:02d} für Björn{SUFFIXES[number % len(SUFFIXES)]}"
        Image.fromarray(pixels).save(folder / file)
Path("new ones").mkdir()
for number, path in enumerate(sorted(Path("my photos").rglob("Foto 00*"))):
    (Path("new ones") / f"unbekannt {number}{path.suffix}").write_bytes(path.read_bytes())
PY

walk() {
    local typed="ltcache $*" status=0
    echo "$ $typed"
    printf -v command '%q ' "$ltcache" "$@"
    script -qec "stty cols 80 rows 40; $command" screen.raw </dev/null >/dev/null || status=$?
    "$python" "$tests/terminal.py" screen.raw 80 || status=$?
    [ "$status" = 0 ] || { echo "walk_through: '$typed' failed (status $status)"; exit 1; }
}

walk inspect "my photos"
walk extract "my photos" --out cache --split test=0.2,val=0.1
walk inspect cache
walk verify cache
walk zero-shot cache
walk ablate cache --methods ce,logit-adjustment,lift-lp --seeds 2 --out ablation
walk report ablation
walk report ablation --html report.html
walk fit-adapter cache --method logit-adjustment --out runs/la
walk evaluate runs/la
walk browse cache --run runs/la --html browse.html
walk predict runs/la "new ones"
walk export runs/la --out bundle
echo "walk_through: all well"
