"""DPO: the KL-leashed optimum of reward maximisation, fitted to pairs by a logistic regression.

Beta is in 1/nats of the SUMMED log-probability of a completion; 0.1 is typical.
"""

from penchant.shapes import Shape
from penchant.slots.compose import Method
from penchant.slots.objectives.pairwise import Logistic
from penchant.slots.ratios.tokens import Tokens
from penchant.slots.weights.uniform import Uniform

METHOD = Method(
    name="dpo",
    source="Rafailov et al. 2023, arXiv:2305.18290, eq. 7",
    shape=Shape.PAIR,
    ratio=Tokens(reduction="sum"),
    objective=Logistic(beta=0.1),
    weight=Uniform(),
)
