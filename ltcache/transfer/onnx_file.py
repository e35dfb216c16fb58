"""``export_onnx``: image tower, transform and head as one ONNX file, for runtimes without torch.

The only part of ltcache that knows ONNX. Features are rounded inside the graph as a cache stores
them, so its probabilities are those of ``ltcache predict``. Before anything is handed out, ONNX
Runtime runs the file beside the encoder and the run.
"""

from __future__ import annotations

import importlib
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ltcache.cache import stored
from ltcache.errors import FitError, UsageError, first_line
from ltcache.evaluate import probabilities_of
from ltcache.extras import how_to_install
from ltcache.records import JsonObject, file_digest, require_vacant, whole_folder, write_json
from ltcache.runs import Run
from ltcache.transfer.bundle import TOLERANCE, prior_text, run_and_encoder

if TYPE_CHECKING:
    from ltcache.encoder import Encoder, EncoderChoice

MODEL, RECORD, SCRIPT = "model.onnx", "model.json", "classify.py"
OPSET = 18
_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_WHOLE = 1_500_000_000  # bytes of weights in the file itself; protobuf ends at 2 GiB

_SCRIPT = '''"""Classify images: python classify.py IMAGE...

Needs onnxruntime, numpy and Pillow; written by ltcache, which it does not need.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

HERE = Path(__file__).parent
RECORD = json.loads((HERE / "model.json").read_text(encoding="utf-8"))


def fitted(image, height, width, mode, filter, fill, share=None):
    """Resize, then crop or pad about the centre, as open_clip does; with a share as timm does."""
    high, wide = (height, width) if share is None else (int(height / share), int(width / share))
    if mode == "squash":
        scaled = (wide, high)
    elif mode == "shortest" and high == wide:
        short, long = sorted(image.size)
        edge = int(high * long / short)
        scaled = (high, edge) if image.width <= image.height else (edge, high)
        scaled = image.size if short == high else scaled
    else:
        choose = max if mode == "longest" else min
        ratio = choose(image.height / high, image.width / wide)
        scaled = (max(1, round(image.width / ratio)), max(1, round(image.height / ratio)))
        filter = filter if mode == "longest" or share else Image.Resampling.BICUBIC
    image = image.resize(scaled, filter) if scaled != image.size else image
    across, down = max(width - image.width, 0), max(height - image.height, 0)
    if across or down:
        color = (fill if mode == "longest" else 0,) * len(image.getbands())
        border = (across // 2, down // 2, (across + 1) // 2, (down + 1) // 2)
        image = ImageOps.expand(image, border, color if len(color) > 1 else color[0])
    left, top = round((image.width - width) / 2.0), round((image.height - height) / 2.0)
    return image.crop((left, top, left + width, top + height))


def pixels(path):
    """Return float32 (1, 3, H, W), the input of the model."""
    p = RECORD["preprocessing"]
    filter = Image.Resampling[p["interpolation"].upper()]
    with Image.open(path) as image:
        image.load()
        image.info.pop("transparency", None)
        share = p.get("crop_pct")
        image = image.convert("RGB") if share else image
        settings = (p["resize_mode"], filter, p["fill_color"], share)
        image = fitted(image, *p["size"], *settings).convert("RGB")
    values = np.asarray(image, dtype=np.float32).transpose(2, 0, 1) / np.float32(255)
    mean, std = (np.array(p[name], np.float32)[:, None, None] for name in ("mean", "std"))
    return ((values - mean) / std)[None]


def main(paths):
    session = onnxruntime.InferenceSession(
        str(HERE / RECORD["model"]), providers=["CPUExecutionProvider"]
    )
    for path in paths:
        (shares,) = session.run(["probabilities"], {"pixels": pixels(path)})
        order = np.argsort(-shares[0], kind="stable")[:5]
        answers = [f"{RECORD['classes'][label]}={shares[0, label]:.6f}" for label in order]
        print(path, *answers, sep="\\t")


if __name__ == "__main__":
    main(sys.argv[1:])
'''

_README = """# {method}: image tower and head as ONNX

| file | what it holds |
|---|---|
| `model.onnx` | `pixels` float32 (N, 3, {height}, {width}) to `logits` and `probabilities` (N, {classes}) |
| `model.json` | class names in label order, preprocessing, identities of encoder, classes and features |
| `classify.py` | the whole way from a file to names, in one page |

```sh
pip install onnxruntime numpy Pillow
python classify.py photo.jpg
```

N is any number. The graph (opset {opset}) computes `{field}` of the image tower, rounds it to
float16 as a cache stores it, applies `{transform}` and the head. Where this file was written, ONNX
Runtime's probabilities differed by {worst:.1g} at most from those of `ltcache predict`.
{prior}
"""  # noqa: E501


class _OnnxGraph(nn.Module):
    """Normalised images (N, 3, H, W) to logits and probabilities (N, C)."""

    def __init__(self, run: Run, encoder: Encoder) -> None:
        from ltcache.encoder import ImageTower

        super().__init__()
        self.tower = ImageTower(encoder, run.record.field)
        self.transform = run.transform
        self.head = run.head

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        features = self.tower(pixels)
        rounded = features.half().float()  # as ltcache.cache.shards.stored
        moved = (features - rounded).abs().sum(dim=1, keepdim=True)
        lost = moved > 2**-10 * features.abs().sum(dim=1, keepdim=True)
        features = torch.where(lost, features, rounded)
        logits = self.head(self.transform(features))
        return logits, logits.softmax(dim=1)


def export_onnx(
    run: Run | str | Path,
    out: str | Path,
    *,
    encoder: Encoder | EncoderChoice | None = None,
) -> Path:
    """Write the image tower and the head of a run as an ONNX file that runs without ltcache.

    Args:
        run: a run or its directory; any head that torch can trace.
        out: a new folder: ``model.onnx``, ``model.json``, ``classify.py``, ``README.md``.
        encoder: loaded already, in float32 on the CPU; else as in
            :func:`ltcache.evaluate.prediction.predict`.

    Raises:
        UsageError: packages are missing (says which), or ``out`` is there already.
        IdentityError: the encoder is not the run's.
        FitError: the run is transductive, tower or head cannot be written as ONNX, or ONNX Runtime
            computes otherwise.
    """
    out = require_vacant(out)
    runtime = _packages()
    run, encoder = run_and_encoder(run, encoder)
    with whole_folder(out, replace=False) as partial:
        _write_model(_OnnxGraph(run, encoder).eval(), encoder, partial / MODEL)
        worst = _compare(runtime, run, encoder, partial / MODEL)
        write_json(partial / RECORD, _record(run, encoder, partial, worst))
        (partial / SCRIPT).write_text(_SCRIPT, encoding="utf-8")
        (partial / "README.md").write_text(_readme(run, encoder, worst), encoding="utf-8")
    return out


def _packages() -> Any:
    """Return ONNX Runtime after making sure that everything is there.

    Raises:
        UsageError: says how to install what is missing.
    """
    missing = []
    for name in _PACKAGES:
        try:
            importlib.import_module(name)
        except ImportError:
            missing.append(name)
    if missing:
        raise UsageError(f"an ONNX file needs {' and '.join(missing)}: {how_to_install('onnx')}")
    return importlib.import_module("onnxruntime")


def _write_model(graph: nn.Module, encoder: Encoder, path: Path) -> None:
    height, width = encoder.preprocessing.size
    example = torch.zeros(2, 3, height, width)
    weights = sum(t.numel() * t.element_size() for t in graph.state_dict().values())
    try:
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(
                graph, (example,), dynamo=True, verbose=False, opset_version=OPSET,
                input_names=["pixels"], output_names=["logits", "probabilities"],
                dynamic_shapes=({0: torch.export.Dim("N")},),
            )  # fmt: skip
            assert program is not None
            _forget_places(program)
            program.save(path, external_data=weights > _WHOLE)
    except Exception as error:  # whatever the exporter says of a layer that it does not know
        first = first_line(error)
        raise FitError(
            f"this image tower and head cannot be written as ONNX: {first}; --format bundle "
            "writes them for torch"
        ) from None


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's remarks on its own workings from the user."""
    loggers = [logging.getLogger(name) for name in ("onnxscript", "onnx_ir", "torch.onnx")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _forget_places(program: Any) -> None:
    """Drop stack traces, which name files of this machine."""
    model = program.model
    graphs = [model.graph, *model.functions.values()]
    for graph in graphs:
        graph.metadata_props.clear()
        for node in graph:
            node.metadata_props.clear()
            for value in node.outputs:
                value.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        value.metadata_props.clear()


def _compare(runtime: Any, run: Run, encoder: Encoder, path: Path) -> float:
    """Return by how much ONNX Runtime's probabilities differ from the run's, for any batch.

    Raises:
        FitError: by more than ``TOLERANCE``.
    """
    height, width = encoder.preprocessing.size
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (5, 3, height, width), dtype=torch.uint8, generator=generator)
    field = run.record.field
    features = encoder.encode_images(pixels, (field,))[field].numpy()
    expected = probabilities_of(run.logits(stored(features)))
    images = encoder.preprocessing.normalise(pixels).numpy()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    try:
        session = runtime.InferenceSession(
            os.fspath(path), options, providers=["CPUExecutionProvider"]
        )
        parts = [session.run(["probabilities"], {"pixels": x})[0] for x in (images[:1], images[1:])]
    except Exception as error:  # the runtime's own kinds
        raise FitError(f"ONNX Runtime cannot run the exported file: {error}") from None
    worst = float(np.abs(np.concatenate(parts) - expected).max())
    if not worst <= TOLERANCE:
        raise FitError(
            f"ONNX Runtime's probabilities differ from the run's by {worst:.2g}; nothing was "
            "exported; --format bundle writes tower and head for torch"
        )
    return worst


def _record(run: Run, encoder: Encoder, folder: Path, worst: float) -> JsonObject:
    height, width = encoder.preprocessing.size
    classes = len(run.class_names)
    return {
        "format": 1,
        "model": MODEL,
        "sha256": {path.name: file_digest(path) for path in sorted(folder.glob(f"{MODEL}*"))},
        "opset": OPSET,
        "classes": list(run.class_names),
        "input": {"name": "pixels", "type": "float32", "shape": ["N", 3, height, width]},
        "outputs": {name: ["N", classes] for name in ("logits", "probabilities")},
        "preprocessing": encoder.preprocessing.to_dict(),
        "field": run.record.field,
        "transform": run.transform.kind,
        "method": run.method.name,
        "residual_prior": run.record.residual_prior,
        "identities": run.record.identities,
        "run": run.key,
        "difference_from_predict": worst,
    }


def _readme(run: Run, encoder: Encoder, worst: float) -> str:
    height, width = encoder.preprocessing.size
    return _README.format(
        method=run.method.name, height=height, width=width, classes=len(run.class_names),
        opset=OPSET, field=run.record.field, transform=run.transform.kind, worst=worst,
        prior=prior_text(run.record.residual_prior),
    )  # fmt: skip
