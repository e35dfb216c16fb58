"""What of an encoder to tune, all else equal: everything, biases, norms, low-rank changes."""

from __future__ import annotations

from dataclasses import replace

from ltcache.finetune.methods.lift import LIFT
from ltcache.finetune.spec import AUTO, AdapterChoice, TowerTuning, TuningOptimisation

_ALIKE = "Head, loss, sampler and augmentation are LIFT's, so that only what is tuned differs."

FULL = replace(
    LIFT,
    name="full",
    title="every weight of the image tower, cosine head from the class texts, logit adjustment",
    reference="full fine-tuning, as in Wortsman et al., CVPR 2022",
    differs=f"{_ALIKE} Its gain depends on the learning rate: choose it on validation data.",
    equation="CE(25 <f, w_c> + log pi_c, y)",
    adapters=(),
    image=TowerTuning(train="full"),
    lr_factors={**LIFT.lr_factors, "classifier": 10.0},
    optimisation=TuningOptimisation(
        optimiser="adamw", lr=3e-5, weight_decay=0.1, batch=128, epochs=10, warmup=1.0, clip=1.0
    ),
)

TUNINGS = (
    FULL,
    replace(
        LIFT,
        name="bias",
        title="the biases of the image tower alone",
        reference="Ben Zaken et al., BitFit, ACL 2022",
        differs=_ALIKE,
        equation=FULL.equation,
        adapters=(),
        image=TowerTuning(train="bias"),
    ),
    replace(
        LIFT,
        name="layer-norm",
        title="weights and biases of the image tower's normalisations alone",
        reference="Kim et al., How to adapt your large-scale vision-and-language model, 2021",
        differs=_ALIKE,
        equation=FULL.equation,
        adapters=(),
        image=TowerTuning(train="layer_norm"),
    ),
    replace(
        LIFT,
        name="lora",
        title="low-rank changes of the image tower's attention weights, merged at the end",
        reference="Hu et al., LoRA: low-rank adaptation of large language models, ICLR 2022",
        differs=_ALIKE,
        equation="W' = W + (alpha / r) B A; CE(25 <f, w_c> + log pi_c, y)",
        adapters=(AdapterChoice("lora"),),
    ),
    replace(
        FULL,
        name="wise-ft",
        title="full fine-tuning, averaged in weight space with the encoder it began with",
        reference="Wortsman et al., Robust fine-tuning of zero-shot models (WiSE-FT), CVPR 2022",
        differs=f"{_ALIKE} Validation images choose the share, for which the publication "
        "recommends 0.5.",
        equation="theta = (1 - alpha) theta_start + alpha theta_tuned",
        average=AUTO,
    ),
    replace(
        FULL,
        name="lp-ft",
        title="linear probe first, then full fine-tuning",
        reference="Kumar et al., Fine-tuning can distort pretrained features, ICLR 2022",
        differs=_ALIKE,
        equation="w_c fitted to frozen features, then CE(25 <f, w_c> + log pi_c, y)",
        classifier=replace(LIFT.classifier, init="probe"),
    ),
)
