"""Methods that live in the joint space of images and class texts, and training-free ones."""

from __future__ import annotations

from dataclasses import replace

from ltcache.methods.families.shared import (
    CE,
    COSINE,
    JOINT,
    JOINT_UNIT,
    RAW,
    UNIT,
    first,
)
from ltcache.methods.optimisation import Optimisation
from ltcache.methods.spec import Adjust, Estimate, Method, Solve, Train

_BALLAD = Optimisation(optimiser="sgd", lr=0.2, weight_decay=5e-4, batch=512, epochs=40)
_SUBSET = replace(COSINE, batch=128, epochs=10, min_steps=100)
_ALPHAS = tuple(10.0**power for power in (-4, -3, -2, -1, 0, 1, 2))


def ballad(classifier: str) -> Method:
    """Return BALLAD's second phase with class texts or a trained classifier on its features."""
    return Method(
        name="ballad",
        title="a linear adapter mixed into the image embedding, scored against the class texts",
        feature=JOINT,
        stages=(
            Train(
                head="ballad_adapter",
                head_options={"classifier": classifier},
                init="text",
                sampler="class_aware",
                optimisation=_BALLAD if classifier == "text" else replace(COSINE, lr=1e-3),
            ),
        ),
        reference="Ma et al., A simple long-tailed recognition baseline via vision-language model "
        "(BALLAD), 2021",
        fidelity="analogue",
        differs="Phase B alone, on an encoder that phase A has not tuned; more epochs, the best of "
        "which validation data choose.",
        mechanism="an adapter mixed into the frozen embedding, trained with classes drawn equally",
        ablation={"head.ratio": 0.0},
    )


METHODS = (
    Method(
        name="zero-shot",
        title="cosine with the class texts, no training image used",
        feature=JOINT_UNIT,
        stages=(Solve("zero_shot"),),
        reference="Radford et al., Learning transferable visual models (CLIP), ICML 2021",
        fidelity="exact",
        differs="Nothing.",
    ),
    Method(
        name="lift-lp",
        title="cosine head from the class texts, logit adjustment",
        feature=replace(UNIT, view="rrc|center"),
        stages=(
            first(
                "cosine",
                head_options={"scale": 25.0},
                init="text|class_mean",
                loss="logit_adjustment",
            ),
        ),
        reference="Shi et al., Long-tail learning with foundation model (LIFT), ICML 2024",
        fidelity="exact",
        differs="LIFT without its adapters (its linear-probe setting), AdamW for SGD; the "
        "random crops of the cache (extract --views rrc:16), where it has any, for new ones in "
        "every epoch, else one central crop of each image; class means are the start where the "
        "cache has no class texts.",
    ),
    Method(
        name="lt-soups",
        title="average of cosine heads trained on balanced subsets, carried on with all rows",
        feature=UNIT,
        stages=(
            first(
                "cosine",
                head_options={"scale": 25.0},
                init="text|class_mean",
                loss="logit_adjustment",
                soup=0.7,
                optimisation=_SUBSET,
            ),
            first(
                "cosine",
                head_options={"scale": 25.0},
                init="previous",
                loss="logit_adjustment",
                optimisation=_SUBSET,
            ),
        ),
        reference="Aminbeidokhti et al., LT-Soups: Bridging head and tail classes via subsampled "
        "model soups, NeurIPS 2025",
        fidelity="analogue",
        differs="The encoder is frozen, so that heads alone are averaged, where the original "
        "averages tuned encoders with them; subsets double until the last one has all rows, for "
        "released exponents per data set; one training of each, to its end, for two averages over "
        "steps at the epoch that validation data choose. Class means are the start where the cache "
        "has no class texts.",
        mechanism="weights averaged over subsets from balanced to as imbalanced as the data",
        ablation={"stages.0.soup": 0.0},
    ),
    ballad("text"),
    Method(
        name="sage",
        title="attention over the class texts, logit adjustment with a compensation per class",
        feature=UNIT,
        stages=(
            Estimate("compensation", {"estimator": "finite_sample", "folds": 5}),
            Train(
                head="sg_attention",
                init="text|class_mean",
                loss="compensated_logit_adjustment",
                loss_options={"lam": 0.1},
                optimisation=COSINE,
            ),
        ),
        reference="Peng, Zhang and Cheung, Semantic-guided fine-tuning (Sage), arXiv 2507.12807",
        fidelity="reconstruction",
        differs="Only the abstract is public: the compensation is derived from Bayes' rule, and "
        "the adapter acts on the final vector, not inside the visual blocks.",
        mechanism="class texts guide the features, and a factor per class enters the loss",
        ablation={"loss.lam": 0.0},
    ),
    Method(
        name="gla",
        title="a head trained by cross entropy and zero-shot, both freed of their label bias",
        feature=JOINT_UNIT,
        stages=(
            first("cosine", head_options={"scale": 25.0}, init="text"),
            Adjust("gla"),
        ),
        reference="Zhu et al., Generalized logit adjustment, NeurIPS 2023",
        fidelity="exact",
        differs="The fine-tuned model is a head on a frozen encoder.",
    ),
    Method(
        name="cross-modal",
        title="cosine head, class texts as half of the training rows, classes drawn equally often",
        feature=replace(UNIT, text_rows=True, text_share=0.5),
        stages=(first("cosine", head_options={"scale": 25.0}, init="text", sampler="class_aware"),),
        reference="Lin et al., Multimodality helps unimodality (cross-modal adaptation), CVPR 2023",
        fidelity="analogue",
        differs="Half of every batch is text in expectation, where the original counts it off; "
        "classes are drawn equally often, for which its balanced few-shot sets have no need; the "
        "scale of the cosine is LIFT's.",
        mechanism="class texts as labelled training rows",
        ablation={"feature.text_rows": False},
    ),
    Method(
        name="vl-ltr",
        title="a network on the features, and attention over the sentences of each class",
        feature=JOINT,
        stages=(
            Train(
                head="language_guided",
                objective="each_expert",
                sampler="square_root",
                lr_factors={"query": 1e-3, "key": 1e-3},
                optimisation=Optimisation(lr=1e-3, weight_decay=0.05, epochs=50),
            ),
        ),
        reference="Tian et al., VL-LTR: Learning class-wise visual-linguistic representation for "
        "long-tailed visual recognition, ECCV 2022",
        fidelity="analogue",
        differs="Its second stage alone: the encoder is the cache's, which has had the first one, "
        "its class-wise contrast, only if `ltcache finetune --method vl-ltr` has made it; the "
        "cache's sentences stand for those of Wikipedia.",
        mechanism="sentences of a class, weighted by the image, as its second classifier",
        ablation={"head.alpha": 1.0},
    ),
    Method(
        name="gda",
        title="Gaussian discriminant analysis, mixed with zero-shot where there are class texts",
        feature=replace(JOINT_UNIT, field="embedding_or_pooled"),
        stages=(Solve("gda", choose={"alpha": _ALPHAS}),),
        reference="Wang et al., A hard-to-beat baseline for training-free CLIP adaptation, "
        "ICLR 2024",
        fidelity="exact",
        differs="alpha is chosen on validation data.",
    ),
    Method(
        name="tip-adapter",
        title="votes of the nearest training images, added to zero-shot",
        feature=JOINT_UNIT,
        stages=(
            Solve(
                "tip_adapter",
                choose={"alpha": (0.5, 1.0, 2.0, 4.0, 8.0, 16.0), "beta": (1.0, 2.0, 5.5, 10.0)},
            ),
        ),
        reference="Zhang et al., Tip-Adapter, ECCV 2022",
        fidelity="exact",
        differs="At most 16 keys a class, and the votes of a class are divided by its keys, for "
        "which a balanced few-shot set has no need; alpha and beta are chosen on validation data.",
    ),
    Method(
        name="tip-adapter-f",
        title="Tip-Adapter with trained keys",
        feature=JOINT_UNIT,
        stages=(
            Train(
                head="tip_adapter_f",
                init="keys",
                sampler="class_aware",
                optimisation=Optimisation(lr=1e-3, weight_decay=0.01, epochs=20),
            ),
        ),
        reference="Zhang et al., Tip-Adapter (Tip-Adapter-F), ECCV 2022",
        fidelity="exact",
        differs="At most 16 keys a class, votes divided by a class's keys, and classes drawn "
        "equally often, for which a balanced few-shot set has no need.",
    ),
    replace(
        CE,
        name="ncm",
        title="nearest class mean of centred unit features",
        feature=RAW,
        stages=(Solve("ncm"),),
        reference="Kang et al., Decoupling representation and classifier, ICLR 2020 (NCM)",
        differs="Nothing but the frozen encoder.",
    ),
    replace(
        CE,
        name="knn",
        title="votes of the nearest training images, balanced by class",
        feature=replace(RAW, transform="center_l2"),
        stages=(Solve("knn", choose={"k": (1, 5, 10, 20, 50)}),),
        reference="Wu et al., Unsupervised feature learning via non-parametric discrimination, "
        "CVPR 2018 (weighted k-NN)",
        differs="Votes are divided by class frequency, for which a balanced set has no need.",
    ),
)
