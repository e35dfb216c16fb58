"""BALLAD's first phase: both towers go on with contrastive training on the long-tailed set."""

from __future__ import annotations

from dataclasses import replace

from ltcache.finetune.spec import (
    CONTRASTIVE,
    FineTuning,
    ObjectiveTerm,
    TowerTuning,
    TuningOptimisation,
)

BALLAD = FineTuning(
    name="ballad",
    title="both towers trained on images against class texts, all of one class positive",
    reference="Ma et al., A simple long-tailed recognition baseline via vision-language model "
    "(BALLAD), 2021, phase A",
    fidelity="exact",
    differs="RandomResizedCrop and flip, which the publication does not state; phase B is "
    "`ltcache fit-adapter ballad` on the features that are extracted anew.",
    equation="L = L_image-to-text + L_text-to-image, each -1/|P(i)| sum_{p in P(i)} log softmax_p",
    image=TowerTuning(train="full"),
    text=TowerTuning(train="full"),
    terms=(ObjectiveTerm(CONTRASTIVE),),
    logit_scale="trained",
    optimisation=TuningOptimisation(lr=1e-5, batch=512, epochs=50),
)

TUNINGS = (
    BALLAD,
    replace(
        BALLAD,
        name="ballad-code",
        title="both towers trained by cross entropy over the texts of all classes",
        differs="The released code's form, where the publication names a contrastive loss, with "
        "Nesterov momentum for plain momentum. Its fixed scale of 100 is that of CLIP's encoders; "
        "another encoder keeps its own.",
        equation="L = CE(logit_scale <x, t_c>, y) over all classes c",
        terms=(ObjectiveTerm("cross_entropy"),),
        template="a photo of a {}.",
        logit_scale="fixed",
        augmentation="rotate_crop_colour",
        augmentation_options={"scale": (0.5, 1.0), "flip": 0.5, "degrees": 0.0},
    ),
)
