"""Two stages: a first classifier, then what re-balances it."""

from __future__ import annotations

from dataclasses import replace

from ltcache.methods.families.shared import CE, FROZEN, FROZEN_COSINE, FROZEN_LENGTHS, SECOND, first
from ltcache.methods.spec import Method, Train, Transform

_TAUS = tuple(round(0.1 * step, 1) for step in range(21))
_CALIBRATION = replace(SECOND, lr=3e-3)  # a few numbers per class, which need longer steps
_KANG = "Kang et al., Decoupling representation and classifier, ICLR 2020"


def second(classifier: str = "linear", **changes: object) -> Train:
    """Return a stage that carries a head on with classes drawn equally often."""
    stage = Train(head=classifier, init="previous", sampler="class_balanced", optimisation=SECOND)
    return replace(stage, **changes)  # type: ignore[arg-type]


def dr(classifier: str) -> Method:
    """Return decoupled re-training with a linear or a cosine classifier."""
    return replace(
        CE,
        name="dr",
        title="decoupled re-training: cross entropy, carried on with classes drawn equally often",
        stages=(first(classifier), second(classifier)),
        reference=f"{_KANG}; as stage 2 of Li et al., H2T, AAAI 2024",
        differs=FROZEN_COSINE if classifier == "cosine" else FROZEN,
    )


def dr_mu(classifier: str) -> Method:
    """Return decoupled re-training whose first stage mixes features."""
    mixed = first(classifier, fusion=("mixup",), fusion_options={"alpha": 0.2})
    return replace(
        CE,
        name="dr-mu",
        title="decoupled re-training with mixup in the first stage",
        stages=(mixed, second(classifier)),
        reference="Zhong et al., Improving calibration for long-tailed recognition, CVPR 2021",
        fidelity="analogue",
        differs="Mixup mixes cached features, not pixels, which is not the same behind an encoder.",
        mechanism="training on mixtures of two images with both labels",
        ablation={"stages.0.fusion": "none"},
    )


def mislas(classifier: str) -> Method:
    """Return MiSLAS without the shift of batch statistics."""
    mixed = first(classifier, fusion=("mixup",), fusion_options={"alpha": 0.2})
    smoothed = second(
        "lws",
        head_options={"classifier": classifier, "learn_weight": True},
        loss="label_aware_smoothing",
        lr_factors={"weight": 0.05, "bias_vector": 0.05},
        optimisation=_CALIBRATION,
    )
    return replace(
        CE,
        name="mislas",
        title="mixup, then label-aware smoothing of a classifier with learnable scales",
        stages=(mixed, smoothed),
        reference="Zhong et al., Improving calibration for long-tailed recognition (MiSLAS), "
        "CVPR 2021",
        fidelity="analogue",
        differs="Mixup mixes cached features, not pixels, a frozen encoder has no batch statistics "
        "to shift, and the second stage draws with replacement, where MiSLAS draws class-aware.",
        mechanism="label smoothing that falls from head to tail classes",
        ablation={"loss.eps_head": 0.0, "loss.eps_tail": 0.0},
    )


def gcl(classifier: str) -> Method:
    """Return Gaussian clouded logits; a linear second classifier starts from the cosine one."""
    clouded = first("cosine", head_options={"scale": 30.0}, loss="gcl")
    cosine = classifier == "cosine"
    scale = 20.0 if cosine else 30.0  # rows of length sqrt(D) take over the logits as they were
    carried_on = second(
        classifier,
        head_options={"scale": scale} if cosine else {},
        loss="gcl",
        loss_options={"margin": 0.1, "gamma": 1.0, "scale": scale},
    )
    return replace(
        CE,
        name="gcl",
        title="noise on the logits that grows for rare classes, then the same with a margin and "
        "classes drawn equally often",
        stages=(clouded, carried_on),
        reference="Li et al., Long-tailed visual recognition via Gaussian clouded logit "
        "adjustment, CVPR 2022",
        fidelity="analogue",
        differs="The encoder is frozen, so that the noise shapes the classifier alone; mixup of "
        "the images is left out of both stages, and AdamW stands for SGD.",
        mechanism="Gaussian noise on the logits, larger for rarer classes",
        ablation={"stages.0.loss.noise_mul": 0.0, "loss.noise_mul": 0.0},
    )


METHODS = (
    dr("linear"),
    dr_mu("linear"),
    mislas("linear"),
    gcl("cosine"),
    replace(
        CE,
        name="tau-norm",
        title="cross entropy, then class weights divided by a power of their length",
        stages=(first(), Transform("tau_norm", choose={"tau": _TAUS})),
        reference=f"{_KANG} (tau-normalisation)",
        differs=f"{FROZEN_LENGTHS} tau is chosen on validation data, not read off the sweep.",
    ),
    replace(
        CE,
        name="lws",
        title="cross entropy, then one learnable scale per class",
        stages=(
            first(),
            second("lws", sampler="class_aware", optimisation=_CALIBRATION),
        ),
        reference=f"{_KANG} (learnable weight scaling)",
        differs=f"{FROZEN} 20 epochs for the 5 released.",
    ),
    replace(
        CE,
        name="disalign",
        title="cross entropy, then a calibration of the logits that depends on the image",
        stages=(
            first(),
            second(
                "disalign",
                sampler="instance",
                loss="generalised_reweighting",
                loss_options={"rho": 1.2},
                optimisation=_CALIBRATION,
            ),
        ),
        reference="Zhang et al., Distribution alignment (DisAlign), CVPR 2021",
        differs=FROZEN,
    ),
    replace(
        CE,
        name="marc",
        title="cross entropy, then the margins of the classes calibrated",
        stages=(
            first(),
            second(
                "marc",
                sampler="instance",
                loss="generalised_reweighting",
                loss_options={"rho": 1.2},
                optimisation=_CALIBRATION,
            ),
        ),
        reference="Wang et al., Margin calibration for long-tailed visual recognition (MARC), 2021",
        differs=FROZEN_LENGTHS,
    ),
)
