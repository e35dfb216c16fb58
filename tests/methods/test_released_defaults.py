"""Settings of the methods against those of the code that their authors, or others, released.

Where a value is another one on purpose, the line has both, and a word that the method says of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from ltcache.methods import METHODS, Train, override


@dataclass(frozen=True)
class ReleasedDefault:
    """One value of released code.

    Args:
        method, key: what it is here. released: the value there.
        source: repository and file.
        ours: the value here, where it is another one on purpose.
        said: a word of that method's ``differs`` about it.
    """

    method: str
    key: str
    released: Any
    source: str
    ours: Any = None
    said: str = ""


LIFT, LIFT_LOSSES = "shijxcs/LIFT utils/config.py", "shijxcs/LIFT utils/losses.py"
KANG = "facebookresearch/classifier-balancing config/ImageNet_LT"
VLM = "Imbalance-VLM/Imbalance-VLM imblearn/algorithms/supervised/utils.py"
SEESAW = "open-mmlab/mmpretrain mmpretrain/models/losses/seesaw_loss.py"
TIP = "gaopengcuhk/Tip-Adapter configs/imagenet.yaml"
GCL = "Keke921/GCLLoss cifar_train_classifier.py"
H2T = "Keke921/H2T config/cifar100/cifar100_imb001_stage2_ce_H2T.yaml"
RIDE = "frank-xwang/RIDE-LongTailRecognition model/loss.py"
RIDE_CIFAR = "frank-xwang/RIDE-LongTailRecognition configs/config_imbalance_cifar100_ride.json"
RIDE_IMAGENET = "frank-xwang/RIDE-LongTailRecognition configs/config_imagenet_lt_resnet50_ride.json"
RIDE_INAT = "frank-xwang/RIDE-LongTailRecognition configs/config_iNaturalist_resnet50_ride.json"
SADE = "Vanint/SADE-AgnosticLT model/loss.py"
PACO = "dvlab-research/Parametric-Contrastive-Learning PaCo/LT/losses.py"
GPACO = "dvlab-research/Parametric-Contrastive-Learning GPaCo/LT/losses.py"
CROSS_MODAL = "linzhiqiu/cross_modal_adaptation train.py"

TABLE = tuple(
    ReleasedDefault(*line)
    for line in (
        ("ce", "sampler", "instance", f"{KANG}/feat_uniform.yaml"),
        ("focal", "optimisation.optimiser", "sgd", LIFT, "adamw", "AdamW"),
        ("crt", "sampler", "class_aware", f"{KANG}/cls_crt.yaml"),
        ("crt", "optimisation.optimiser", "sgd", f"{KANG}/cls_crt.yaml", "adamw", "AdamW"),
        ("lws", "sampler", "class_aware", f"{KANG}/cls_lws.yaml"),
        ("lws", "head.learn_weight", False, f"{KANG}/cls_lws.yaml"),
        ("lws", "optimisation.optimiser", "sgd", f"{KANG}/cls_lws.yaml", "adamw", "AdamW"),
        ("lws", "optimisation.epochs", 5, f"{KANG}/cls_lws.yaml", 20, "20 epochs for the 5"),
        ("tau-norm", "stages.0.sampler", "instance", f"{KANG}/feat_uniform.yaml"),
        ("ncm", "head.variant", "cl2n", "facebookresearch/classifier-balancing KNNClassifier.py"),
        ("focal", "loss.gamma", 2.0, LIFT_LOSSES),
        ("cb", "loss.beta", 0.9999, LIFT_LOSSES),
        ("grw", "loss.rho", 1.0, LIFT_LOSSES),
        ("logit-adjustment", "loss.tau", 1.0, LIFT_LOSSES),
        ("balanced-softmax", "loss", "balanced_softmax", VLM),
        ("ldam-drw", "loss.max_margin", 0.5, LIFT_LOSSES),
        ("ldam-drw", "loss.scale", 30.0, LIFT_LOSSES),
        ("ldam-drw", "loss.beta", 0.9999, RIDE),
        ("lade", "loss.alpha", 0.1, LIFT_LOSSES),
        ("lade", "loss.lam", 0.1, LIFT_LOSSES),
        ("seesaw", "loss.p", 0.8, SEESAW),
        ("seesaw", "loss.q", 2.0, SEESAW),
        ("seesaw", "loss.floor", 0.01, SEESAW),
        ("disalign", "loss.rho", 1.2, VLM),
        ("disalign", "sampler", "instance", VLM),
        ("disalign", "optimisation.optimiser", "sgd", VLM, "adamw", "AdamW"),
        ("marc", "loss.rho", 1.2, VLM),
        ("marc", "sampler", "instance", VLM),
        ("marc", "optimisation.optimiser", "sgd", VLM, "adamw", "AdamW"),
        ("lift-lp", "head.scale", 25.0, LIFT),
        ("lift-lp", "loss", "logit_adjustment", LIFT),
        ("lift-lp", "optimisation.optimiser", "sgd", LIFT, "adamw", "AdamW"),
        ("lift-lp", "feature.view", "rrc", "shijxcs/LIFT trainer.py", "rrc|center", "random"),
        ("tip-adapter", "head.alpha", 1.17, TIP),
        ("tip-adapter", "head.beta", 1.0, TIP),
        ("tip-adapter", "head.shots", 16, TIP),
        ("tip-adapter-f", "head.alpha", 1.17, TIP),
        ("tip-adapter-f", "head.beta", 1.0, TIP),
        ("tip-adapter-f", "optimisation.lr", 1e-3, TIP),
        ("tip-adapter-f", "optimisation.epochs", 20, TIP),
        ("tip-adapter-f", "sampler", "instance", TIP, "class_aware", "drawn equally often"),
        ("gda", "choose.alpha", tuple(10.0**p for p in range(-4, 3)), "mrflogs/ICLR24 utils.py"),
        ("dr", "sampler", "class_balanced", H2T),
        ("dr", "optimisation.optimiser", "sgd", H2T, "adamw", "AdamW"),
        ("dr-cosine", "sampler", "class_balanced", H2T),
        ("dr+h2t", "fusion.ratio", 0.25, H2T),
        ("dr+h2t", "sampler", "class_balanced", H2T),
        ("dr+h2t", "partner", "instance", H2T),
        ("dr+h2t", "stages.0.fusion", ("mixup",), H2T, (), "mixes images up"),
        ("dr-cosine+h2t", "fusion.ratio", 0.25, H2T),
        ("gcl", "stages.0.loss.scale", 30.0, "Keke921/GCLLoss cifar_train_backbone.py"),
        ("gcl", "stages.0.loss.noise_mul", 0.5, "Keke921/GCLLoss cifar_train_backbone.py"),
        ("gcl", "stages.0.loss.margin", 0.0, "Keke921/GCLLoss cifar_train_backbone.py"),
        ("gcl", "loss.scale", 20.0, GCL),
        ("gcl", "loss.noise_mul", 0.5, GCL),
        ("gcl", "loss.margin", 0.1, GCL),
        ("gcl", "loss.gamma", 1.0, GCL),
        ("gcl", "fusion", ("mixup",), GCL, (), "mixup"),
        ("ride", "objective.delta", -0.2, RIDE_CIFAR),
        ("ride", "objective.reweight_factor", 0.05, RIDE_CIFAR),
        ("ride", "objective.reweight_from", 160 / 200, RIDE_CIFAR),
        ("ride", "objective.reweight_factor", 0.02, RIDE_IMAGENET, 0.05, "0.02 on ImageNet-LT"),
        ("ride", "objective.reweight_factor", 0.015, RIDE_INAT, 0.05, "0.015 on iNaturalist"),
        ("ride", "loss.scale", 30.0, RIDE),
        ("ride", "loss.max_margin", 0.5, RIDE),
        ("sade", "objective.tau", 2.0, SADE),
        ("reslt", "objective.beta", 0.99, "Keke921/H2T loss.py"),
        ("reslt", "head.gamma", 0.7, "Keke921/H2T models/ride_model/ldam_drw_resnets"),
        ("paco", "objective.alpha", 0.05, PACO),
        ("paco", "objective.temperature", 0.2, PACO),
        ("paco", "objective.momentum", 0.999, PACO),
        ("paco", "objective.queue", 8192, PACO, 1024, "queue"),
        ("gpaco", "objective.temperature", 0.2, GPACO),
        ("cross-modal", "feature.text_share", 0.5, CROSS_MODAL),
        ("cross-modal", "sampler", "instance", CROSS_MODAL, "class_aware", "drawn equally often"),
    )
)

DIFFER_IN_NOTHING = {
    "zero-shot": "Nothing.",
    "posthoc-la": "frozen",
    "gla": "frozen",
    "knn": "divided by class frequency",
}
"""Exact methods whose released code has no setting of ours to compare -> what they say."""

SAY_NO_OPTIMISER = ("tip-adapter-f", "gla", "ce")
"""Exact methods whose original moves its head by AdamW or takes any fine-tuned head, and ce, whose
text finished runs are known by."""


@pytest.mark.parametrize("line", TABLE, ids=lambda line: f"{line.method} {line.key}")
def test_a_setting_is_as_released_or_the_method_says_that_it_is_not(line: ReleasedDefault) -> None:
    found = setting_of(line.method, line.key)
    if not line.said:
        assert found == line.released, line.source
    else:
        assert found == line.ours != line.released, line.source
        assert line.said in METHODS[line.method].differs


@pytest.mark.parametrize("name", [n for n, m in METHODS.items() if m.fidelity == "exact"])
def test_an_exact_method_says_which_optimiser_stands_for_another(name: str) -> None:
    stages = [stage for stage in METHODS[name].stages if isinstance(stage, Train)]
    moved = any(stage.optimisation.optimiser == "adamw" for stage in stages)
    assert ("AdamW" in METHODS[name].differs) == (moved and name not in SAY_NO_OPTIMISER)


def setting_of(method: str, key: str) -> Any:
    """Return the present value of a key, of the last stage that has it or of the stage it names."""
    full = override(METHODS[method], None)
    known = {f"feature.{name}": value for name, value in vars(full.feature).items()}
    for number, stage in enumerate(full.stages):
        known |= {f"stages.{number}.{name}": value for name, value in stage.settings().items()}
        known |= stage.settings()
    return known[key]


def test_every_exact_method_is_compared_or_differs_in_nothing() -> None:
    exact = {name for name, method in METHODS.items() if method.fidelity == "exact"}
    assert exact == {line.method for line in TABLE if line.method in exact} | {*DIFFER_IN_NOTHING}
    for name, word in DIFFER_IN_NOTHING.items():
        assert word in METHODS[name].differs
