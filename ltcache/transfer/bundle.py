"""``export_bundle``: image tower and head as one safetensors file that runs without ltcache.

The folder holds a script of one page that needs torch, open_clip, safetensors and Pillow. Before
anything is handed out the script itself is run beside the encoder and the run, and has to give the
same probabilities. Where the head is one product in the space of the class texts, the product
stands beside it as the matrix that open_clip's zero-shot classification takes.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from ltcache.adjustments import require_alone
from ltcache.cache import CENTER
from ltcache.errors import EncoderError, FitError, UsageError
from ltcache.evaluate import check_encoder, encoder_of_run, probabilities_of
from ltcache.records import JsonObject, one_line, require_vacant, whole_folder
from ltcache.runs import Run, open_run

if TYPE_CHECKING:
    from ltcache.encoder import Encoder, EncoderChoice

TOLERANCE = 1e-4
BUNDLE, SCRIPT, ZERO_SHOT = "bundle.safetensors", "classify.py", "zero_shot.safetensors"

_SCRIPT = '''"""Classify images: python classify.py IMAGE...

Needs torch, open_clip_torch, safetensors and Pillow; written by ltcache, which it does not need.
"""

import json
import sys
from pathlib import Path

import torch
from open_clip.model import _build_vision_tower
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from safetensors import safe_open


class Classifier(torch.nn.Module):
    """Pixels, normalised float32 (N, 3, H, W), to logits (N, C)."""

    def __init__(self, path):
        super().__init__()
        with safe_open(path, "pt") as file:
            self.config = json.loads(file.metadata()["config"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        tower = self.config["tower"]
        self.visual = _build_vision_tower(tower["embed_dim"], tower["vision"], tower["quick_gelu"])
        state = {n[len("visual."):]: t for n, t in tensors.items() if n.startswith("visual.")}
        self.visual.load_state_dict(state)
        self.weight, self.bias = tensors["head.weight"], tensors["head.bias"]
        self.mean, self.std = tensors["transform.mean"], tensors["transform.std"]
        preprocessing = dict(self.config["preprocessing"])
        preprocessing["size"] = tuple(preprocessing["size"])
        self.preprocess = image_transform_v2(PreprocessCfg(**preprocessing), is_train=False)
        self.eval()

    def features(self, pixels):
        if self.config["field"] == "embedding":
            return self.visual(pixels)
        if hasattr(self.visual, "proj"):  # open_clip's own ViT
            proj, self.visual.proj = self.visual.proj, None
            pooled = self.visual(pixels)
            self.visual.proj = proj
            return pooled
        head = self.visual.head
        last = head[-1] if len(head) else self.visual.trunk.get_classifier()
        noted = []
        hook = last.register_forward_pre_hook(lambda _, inputs: noted.append(inputs[0]))
        self.visual(pixels)
        hook.remove()
        return noted[0]

    def forward(self, pixels):
        found = self.features(pixels)
        if self.config["transform"] == "standardize":
            found = (found - self.mean) / self.std
        if self.config["transform"] == "center_l2":
            found = found - self.mean
        if self.config["transform"] in ("l2", "center_l2") or self.config["unit_features"]:
            found = torch.nn.functional.normalize(found, dim=1)
        return found @ self.weight.T + self.bias


@torch.no_grad()
def main(paths):
    model = Classifier(Path(__file__).parent / "bundle.safetensors")
    for path in paths:
        pixels = model.preprocess(Image.open(path))[None]
        shares = model(pixels).softmax(dim=1)[0]
        top = shares.topk(min(5, len(shares)))
        names = [model.config["classes"][label] for label in top.indices.tolist()]
        answers = [f"{name}={share:.6f}" for name, share in zip(names, top.values.tolist())]
        print(path, *answers, sep="\\t")


if __name__ == "__main__":
    main(sys.argv[1:])
'''

_README = """# {method}: image tower and head in one file

`bundle.safetensors` holds the image tower (`visual.*`, float32), the head (`head.weight`
({classes}, {dim}), `head.bias`), and what is done to features between them (`transform.mean`,
`transform.std`); its metadata `config` is JSON: class names, architecture, preprocessing.

```sh
pip install torch open_clip_torch safetensors Pillow
python classify.py photo.jpg
```

Features are `{field}`; then `{transform}`{unit}; then `features @ head.weight.T + head.bias`.
{prior} `ltcache export --format onnx` writes the same for ONNX Runtime.

{fold}
"""

_FOLDS = """`zero_shot.safetensors` holds `weight` (D, C). It takes the place of the matrix of class
texts in open_clip's zero-shot classification and names the same class,
`(model.encode_image(images, normalize=True) @ weight).argmax(dim=1)`{equal}."""

_FOLDS_NOT = """There is no `zero_shot.safetensors`: {why}, so that no matrix gives the same classes
from open_clip's embeddings alone. A head that folds: `ltcache fit-adapter CACHE --method METHOD
-s feature.field=embedding -s feature.transform=l2 -s head.bias=false`, or a cosine head."""


@one_line
@dataclass(frozen=True, eq=False)
class FoldedHead:
    """A head as one product: weight (C, D), bias (C,), whether features are normalised before."""

    weight: torch.Tensor
    bias: torch.Tensor
    unit_features: bool


def fold_head(run: Run) -> FoldedHead:
    """Return the head of a run as one product with its transformed features.

    Raises:
        FitError: the head is not one product.
    """
    head = run.head
    affine = head.affine()
    probe = torch.randn(4, head.dim, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        represented = head.normalise(head.represent(probe))
        unit = represented.shape == (1, *probe.shape) and torch.allclose(
            represented[0], F.normalize(probe, dim=1), atol=1e-6
        )
        plain = represented.shape == (1, *probe.shape) and torch.equal(represented[0], probe)
    if affine is None or not (unit or plain):
        raise FitError(f"the head of {run.method.name} is not one product: it cannot be exported")
    weight = affine.weight.detach().float().contiguous()
    bias = torch.zeros(len(weight)) if affine.bias is None else affine.bias.detach().float()
    return FoldedHead(weight, bias.contiguous(), unit)


def export_bundle(
    run: Run | str | Path,
    out: str | Path,
    *,
    encoder: Encoder | EncoderChoice | None = None,
) -> Path:
    """Write the image tower and the head of a run as a folder that runs without ltcache.

    Args:
        run: a run or its directory.
        out: a new folder: ``bundle.safetensors``, ``classify.py``, ``README.md``, and
            ``zero_shot.safetensors`` where :func:`zero_shot_matrix` has one.
        encoder: loaded already, in float32; else as in :func:`ltcache.evaluate.prediction.predict`.

    Raises:
        IdentityError: the encoder is not the run's.
        FitError: the head is not one product, or it is transductive.
        EncoderError: open_clip alone does not build the same tower.
    """
    out = require_vacant(out)
    run = open_run(run)
    require_alone(run.head)
    folded = fold_head(run)
    run, encoder = run_and_encoder(run, encoder)
    _require_open_clip(encoder)
    config = _config(run, encoder, folded)
    with whole_folder(out, replace=False) as partial:
        tensors = {f"visual.{n}": t for n, t in encoder.model.visual.state_dict().items()}
        tensors |= {"head.weight": folded.weight, "head.bias": folded.bias}
        tensors |= {"transform.mean": run.transform.mean, "transform.std": run.transform.std}
        own = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
        save_file(own, partial / BUNDLE, metadata={"config": json.dumps(config)})
        if (matrix := zero_shot_matrix(run, folded)) is not None:
            save_file({"weight": matrix}, partial / ZERO_SHOT)
        (partial / SCRIPT).write_text(_SCRIPT, encoding="utf-8")
        (partial / "README.md").write_text(_readme(run, config, folded), encoding="utf-8")
        _check(run, encoder, partial)
    return out


def run_and_encoder(
    run: Run | str | Path,
    encoder: Encoder | EncoderChoice | None,
) -> tuple[Run, Encoder]:
    """Open a run and its encoder, in float32 on the CPU, and make sure that they fit.

    Raises:
        IdentityError: the encoder is not the run's. FitError: the run is transductive.
        UsageError: nothing names the encoder, or the run predicts on another view than ``center``.
    """
    from ltcache.encoder import EncoderChoice

    run = open_run(run)
    require_alone(run.head)
    if (view := run.method.feature.eval_view) != CENTER:
        raise UsageError(
            f"the run predicts on the view {view!r}: only runs on {CENTER!r} can be exported; fit "
            f"with -s feature.eval_view={CENTER}"
        )
    if encoder is None or isinstance(encoder, EncoderChoice):
        encoder = replace(encoder or EncoderChoice(), device="cpu", precision="fp32")
    encoder = encoder_of_run(run, encoder)
    check_encoder(run, encoder)
    return run, encoder


def _require_open_clip(encoder: Encoder) -> None:
    if "embed_dim" not in encoder.identity["architecture"]["config"]:
        raise EncoderError(
            f"{encoder.identity['architecture']['name']} is not open_clip's, which the bundle's "
            "script builds it with: --format onnx writes tower and head as one graph"
        )
    if encoder.adapters:
        names = ", ".join(adapter["name"] for adapter in encoder.adapters)
        raise EncoderError(
            f"the image tower has adapters ({names}), which open_clip alone cannot build: "
            "--format onnx writes tower and head as one graph"
        )


def zero_shot_matrix(run: Run, folded: FoldedHead) -> torch.Tensor | None:
    """Return the head as open_clip's zero-shot matrix, (D, C), or None where it is none.

    ``embedding @ matrix`` has the same largest entry as the run's logits, be the embedding of unit
    length or not: a positive factor of a row changes no argmax.
    """
    if _why_not_folded(run, folded):
        return None
    return folded.weight.T.contiguous()


def _why_not_folded(run: Run, folded: FoldedHead) -> str:
    if run.record.field != "embedding":
        return f"the head takes {run.record.field!r} features"
    if run.transform.kind not in ("none", "l2"):
        return f"the transform {run.transform.kind!r} subtracts a mean"
    return "the head has a bias" if folded.bias.any() else ""


def _config(run: Run, encoder: Encoder, folded: FoldedHead) -> JsonObject:
    architecture = encoder.identity["architecture"]
    return {
        "format": 1,
        "classes": list(run.class_names),
        "tower": {
            "embed_dim": architecture["config"]["embed_dim"],
            "vision": architecture["config"]["vision"],
            "quick_gelu": architecture["activation"] == "quick_gelu",
        },
        "preprocessing": encoder.identity["preprocessing"],
        "field": run.record.field,
        "transform": run.transform.kind,
        "unit_features": folded.unit_features,
        "residual_prior": run.record.residual_prior,
        "encoder": encoder.identity,
        "method": run.method.name,
    }


def _readme(run: Run, config: Mapping[str, Any], folded: FoldedHead) -> str:
    why = _why_not_folded(run, folded)
    unit = folded.unit_features or config["transform"] == "l2"
    equal = ", with the run's logits in every entry" if unit else ""
    return _README.format(
        method=run.method.name,
        classes=len(folded.weight),
        dim=folded.weight.shape[1],
        field=config["field"],
        transform=config["transform"],
        unit="; then unit length" if folded.unit_features else "",
        fold=_FOLDS_NOT.format(why=why) if why else _FOLDS.format(equal=equal),
        prior=prior_text(config["residual_prior"]),
    )


def prior_text(prior: float | None) -> str:
    """Return what a README says of the prior that the logits carry."""
    if prior is None:
        return "It is not known which class prior the logits carry."
    return f"The logits carry the class prior n**{prior:g} of the training rows."


def _check(run: Run, encoder: Encoder, folder: Path) -> None:
    """Run the script that is handed out and compare its probabilities with the run's."""
    module = _load_script(folder / SCRIPT)
    height, width = encoder.preprocessing.size
    pixels = torch.randint(
        0, 256, (4, 3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    field = run.record.field
    expected = probabilities_of(run.logits(encoder.encode_images(pixels, (field,))[field].numpy()))
    try:
        classifier = module.Classifier(folder / BUNDLE)
        with torch.no_grad():
            logits = classifier(encoder.preprocessing.normalise(pixels))
    except Exception as error:  # whatever open_clip says of a tower that it cannot build alone
        raise EncoderError(f"this image tower cannot be exported: {error}") from None
    worst = float(np.abs(probabilities_of(logits.numpy()) - expected).max())
    if not worst <= TOLERANCE:
        raise EncoderError(
            "open_clip alone does not build the same image tower: probabilities differ by "
            f"{worst:.2g}; nothing was exported"
        )


def _load_script(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location("ltcache_exported_bundle", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
