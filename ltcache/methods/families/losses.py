"""One stage, one head: methods that differ in the loss or the sampler."""

from __future__ import annotations

from dataclasses import replace

from ltcache.methods.families.shared import CE, FROZEN, FROZEN_COSINE, UNIT, first
from ltcache.methods.spec import Adjust, Method

_LINEAR = replace(CE, differs=FROZEN)

METHODS = (
    CE,
    replace(
        _LINEAR,
        name="focal",
        title="linear head, focal loss",
        stages=(first(loss="focal"),),
        reference="Lin et al., Focal loss for dense object detection, ICCV 2017",
    ),
    replace(
        _LINEAR,
        name="cb",
        title="linear head, cross entropy weighted by the effective number of images",
        stages=(first(loss="class_balanced"),),
        reference="Cui et al., Class-balanced loss based on effective number of samples, CVPR 2019",
    ),
    replace(
        _LINEAR,
        name="grw",
        title="linear head, cross entropy weighted by a power of the class frequency",
        stages=(first(loss="generalised_reweighting"),),
        reference="Zhang et al., Distribution alignment (generalised re-weighting), CVPR 2021",
    ),
    replace(
        _LINEAR,
        name="crt",
        title="classifier re-training: linear head, cross entropy, classes drawn equally often",
        stages=(first(sampler="class_aware"),),
        reference="Kang et al., Decoupling representation and classifier, ICLR 2020",
        differs="Stage 1 is the frozen encoder, so that class-balanced cross entropy on cached "
        "features is the whole method; AdamW on standardised channels for SGD on raw ones.",
    ),
    replace(
        _LINEAR,
        name="logit-adjustment",
        title="linear head, cross entropy with the log prior added to the logits in training",
        stages=(first(loss="logit_adjustment"),),
        reference="Menon et al., Long-tail learning via logit adjustment, ICLR 2021",
    ),
    replace(
        _LINEAR,
        name="balanced-softmax",
        title="linear head, softmax over class counts",
        stages=(first(loss="balanced_softmax"),),
        reference="Ren et al., Balanced meta-softmax for long-tailed recognition, NeurIPS 2020",
        differs=f"{FROZEN} The meta-sampler is left out.",
        same_as="logit-adjustment",
    ),
    replace(
        _LINEAR,
        name="posthoc-la",
        title="cross entropy, then the log prior subtracted from the logits",
        stages=(
            first(),
            Adjust("posthoc", choose={"tau": (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)}),
        ),
        reference="Menon et al., Long-tail learning via logit adjustment, ICLR 2021",
    ),
    replace(
        _LINEAR,
        name="post-ot",
        title="cross entropy, and predictions matched to equal classes by optimal transport",
        stages=(first(), Adjust("post_ot")),
        reference="Jin, Lang and Lei, IJCV 2023: the part of ABL that is public",
        fidelity="reconstruction",
        differs="Of ABL only the matching after the training is public, and of that no formula: "
        "entropic transport at eps 1 is a choice made here, and the loss is cross entropy. It is "
        "transductive: it learns from the images of the split that it predicts, without their "
        "labels.",
        mechanism="a bias that gives the rows to be predicted the class distribution asked for",
        ablation={"adjustment.iterations": 0},
    ),
    replace(
        _LINEAR,
        name="ldam-drw",
        title="cosine head, margins by class count, re-weighted from 80 % of the training on",
        stages=(first("cosine", head_options={"scale": 30.0}, loss="ldam"),),
        reference="Cao et al., Learning imbalanced datasets with label-distribution-aware margin "
        "loss, NeurIPS 2019",
        differs=f"{FROZEN_COSINE} Re-weighting starts by share of the epochs, not at 160.",
    ),
    replace(
        _LINEAR,
        name="lade",
        title="linear head, balanced softmax with a regulariser that disentangles the prior",
        stages=(first(loss="lade"),),
        reference="Hong et al., Disentangling label distribution (LADE), CVPR 2021",
    ),
    replace(
        _LINEAR,
        name="seesaw",
        title="linear head, seesaw loss: online counts and compensation",
        stages=(first(loss="seesaw"),),
        reference="Wang et al., Seesaw loss for long-tailed instance segmentation, CVPR 2021",
        differs=f"{FROZEN} Its branch for objectness has no use in classification.",
    ),
    Method(
        name="tin",
        title="cosine head from the class texts, TIN's simplified seesaw",
        feature=UNIT,
        stages=(
            first(
                "cosine",
                head_options={"scale": 25.0},
                init="text|class_mean",
                loss="seesaw_static",
            ),
        ),
        reference="TIN (seesaw-weighted CLIP with large-kernel visual attention)",
        fidelity="analogue",
        differs="Both towers are frozen and the visual attention, which gates token maps, is left "
        "out here; pipelines/tin_cached.py trains it on cached tokens.",
        mechanism="one-sided adjustment min(0, p log(n_j / n_y)) of the negatives' logits",
        ablation={"loss.p": 0.0},
    ),
)
