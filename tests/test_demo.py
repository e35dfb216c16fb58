"""``ltcache demo`` as a newcomer runs it: outside a checkout, on all images, without a network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ltcache.demo import METHODS
from tests.conftest import PATIENCE, Call

ROWS = ("zero-shot", *METHODS.values())


def demo(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the installed command in ``folder``, with every proxy and hub pointed at nothing."""
    offline = {"HF_HUB_OFFLINE": "1", "HTTPS_PROXY": "http://127.0.0.1:9", "HOME": str(folder)}
    return subprocess.run(
        [str(Path(sys.executable).parent / "ltcache"), "demo"],
        cwd=folder,
        env={**os.environ, **offline},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


@pytest.mark.slow
def test_the_demo_ends_in_a_table_and_a_second_run_reuses_the_cache(
    tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = demo(tmp_path)
    assert first.returncode == 0, first.stderr
    table = [line for line in first.stdout.splitlines() if line.startswith("|")]
    assert [line.split("|")[1].strip() for line in table[2:]] == list(ROWS)
    assert "few n<20" in first.stdout
    assert "encoded" in first.stderr
    assert (tmp_path / "ltcache-demo" / "runs" / "crt" / "metrics.json").exists()

    # that it starts as a process and fits all heads was seen; two heads are enough to see the rest
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(METHODS, "crt")
    status, out, err = call("demo", "--json")
    assert status == 0 and "the cache is there already" in err
    scores = json.loads(out)
    lines = [[cell.strip() for cell in line.split("|")] for line in table[2:]]
    assert set(scores) == {line[1] for line in lines} - {"cross entropy, class-balanced"}
    for _, name, overall, mean_per_class, *_ in (line for line in lines if line[1] in scores):
        assert overall == f"{100 * scores[name]['overall']:.1f}"
        assert mean_per_class == f"{100 * scores[name]['mean_per_class']:.1f}"
    chance = 1 / len(scores["zero-shot"]["per_class"])
    assert scores["zero-shot"]["mean_per_class"] > 5 * chance
    assert scores["logit adjustment"]["mean_per_class"] > 10 * chance
    assert scores["logit adjustment"]["few"] > scores["cross entropy"]["few"]
