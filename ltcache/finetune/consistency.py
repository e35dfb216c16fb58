"""Settings of a fine-tuning that cannot be meant together, or not with an encoder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ltcache.encoder.adapters import TOWER_ADAPTERS
from ltcache.errors import UsageError
from ltcache.finetune.methods import TUNINGS
from ltcache.finetune.spec import IN_BATCH, SENTENCES, FineTuning
from ltcache.fit import require_composite_epochs

if TYPE_CHECKING:
    from ltcache.encoder import Encoder


def require_consistent(tuning: FineTuning, parent: Encoder) -> None:
    """Refuse settings that cannot be meant together.

    Raises:
        UsageError: says which.
    """
    if not parent.has_texts and (wanted := _needs_texts(tuning)):
        without = ", ".join(name for name, entry in TUNINGS.items() if not _needs_texts(entry))
        raise UsageError(
            f"{parent.identity['architecture']['name']} has no text tower, which {tuning.name} "
            f"needs ({wanted}): take another method ({without}), or a dual encoder"
        )
    if not tuning.scores_texts and not tuning.logit_terms:
        raise UsageError("a head needs a loss on logits besides contrastive: name one in loss")
    texts = tuning.scores_texts or tuning.contrastive
    if not texts and (tuning.text.train != "none" or tuning.logit_scale == "trained"):
        raise UsageError(
            "text.train and logit_scale=trained have no effect: neither the classifier nor the "
            "loss uses the text tower (classifier.head=texts, or loss=...,contrastive)"
        )
    require_composite_epochs(tuning.composites, tuning.optimisation.epochs)
    if tuning.composites and any(term.name == SENTENCES for term in tuning.terms):
        raise UsageError(
            f"composites={tuning.composites:g} gives images two labels, and {SENTENCES} draws one "
            "sentence for each: set composites=0, or take loss=contrastive"
        )
    left = [a.name for a in tuning.adapters if not TOWER_ADAPTERS[a.name].mergeable]
    if tuning.average is not None and left:
        raise UsageError(
            f"average mixes weights with those of the start, which lacks {', '.join(left)}: set "
            "average=none, or take adapters that can be merged, such as lora"
        )


def _needs_texts(tuning: FineTuning) -> str:
    """Return the setting by which a fine-tuning needs a text tower; empty where none does."""
    contrasts = [term.name for term in tuning.terms if term.name in IN_BATCH]
    described = [a.name for a in tuning.adapters if "descriptions" in TOWER_ADAPTERS[a.name].needs]
    needs = {
        f"loss={','.join(contrasts)}": contrasts,
        "classifier.head=texts": tuning.scores_texts,
        "classifier.init=text": tuning.classifier.init == "text",
        f"adapters={','.join(described)}": described,
        f"text.train={tuning.text.train}": tuning.text.train != "none",
        "text.weights=random": tuning.text.weights == "random",
        "logit_scale=trained": tuning.logit_scale == "trained",
        f"template={tuning.template}": tuning.template is not None,
    }
    return next((setting for setting, found in needs.items() if found), "")
