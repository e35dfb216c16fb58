"""TIN: large-kernel visual attention and a one-sided seesaw, end to end."""

from __future__ import annotations

from ltcache.finetune.spec import (
    AdapterChoice,
    FineTuning,
    ObjectiveTerm,
    TowerTuning,
    TuningOptimisation,
)

TUNINGS = (
    FineTuning(
        name="tin",
        title="large-kernel attention in the image tower, seesaw over class texts, towers tuned",
        reference="TIN (seesaw-weighted CLIP with large-kernel visual attention)",
        fidelity="reconstruction",
        differs="Kernel sizes (VAN's 21, dilation 3), where a ViT is gated (patch tokens entering "
        "its last block) and strengths of rotation and colour are not published; how contrastive "
        "loss and seesaw combine is not either: loss=seesaw_static is the default.",
        equation="CE(z_j + min(0, p log(n_j / n_y)), y), z = logit_scale <x, t_c>; map * gate(map)",
        mechanism="a gate that looks far, and tail weights kept from negative gradients",
        image=TowerTuning(train="full"),
        text=TowerTuning(train="full"),
        adapters=(AdapterChoice("visual_attention"),),
        terms=(ObjectiveTerm("seesaw_static", {"p": 0.7}),),
        template="The image is a {}",
        augmentation="rotate_crop_colour",
        logit_scale="trained",
        optimisation=TuningOptimisation(lr=1e-4, batch=128, epochs=50),
    ),
)
