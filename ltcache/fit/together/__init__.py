"""Many runs of one architecture as one problem: R heads, each parameter stacked to (R, ...).

Runs share rows, validation rows, batch size, schedule and what the head is made of; they differ in
seed, learning rate, decay, loss and starting weights. Every run draws, weighs and chooses its
epoch as :func:`ltcache.fit.train.train_head` would, so that results agree to rounding. The gain is
the fixed cost of a step, which R runs pay once, and products that keep every core busy.
"""

from ltcache.fit.together.closed_form import ClosedFormSteps, SharedSteps
from ltcache.fit.together.loop import shared_architecture, train_together
from ltcache.fit.together.mapped import MappedSteps

__all__ = [
    "ClosedFormSteps",
    "MappedSteps",
    "SharedSteps",
    "shared_architecture",
    "train_together",
]
