"""Diffusion-DPO: DPO with the denoising-error bound in place of the log-likelihood.

Beta is in units of 1 / (half the MEAN squared error over a latent): z = beta * 0.5 * (h_w - h_l), where h is
the drop in error from reference to policy. The published launchers use 5000 at 512 and 1024 px; the paper's
Stable Diffusion 1.5 value is 2000.
"""

from penchant.shapes import Shape
from penchant.slots.compose import Method
from penchant.slots.objectives.pairwise import Logistic
from penchant.slots.ratios.denoising import Denoising
from penchant.slots.weights.uniform import Uniform

METHOD = Method(
    name="diffusion-dpo",
    source="Wallace et al. 2023, arXiv:2311.12908, eq. 14",
    shape=Shape.PAIR,
    ratio=Denoising(shared_noise=True),
    objective=Logistic(beta=5000.0),
    weight=Uniform(),
)
