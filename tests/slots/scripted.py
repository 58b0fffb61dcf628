"""Models whose denoising errors or token log-probabilities are given numbers, so that a whole step can be
worked by hand."""

import math

import torch

from penchant.diffusion.schedule import VariancePreserving, scaled_linear_alphas
from penchant.protocols import LatentBatch, Models, TokenBatch
from penchant.randomness import Randomness

SD_ALPHAS = scaled_linear_alphas(1000, 0.00085, 0.012)
EPSILON = VariancePreserving(alphas_cumprod=SD_ALPHAS, prediction="epsilon")
LATENT = (2, 2, 2)
DRAWS = Randomness(run=7)


class GivenErrors:
    """A denoiser that misses the noise by sqrt(error) in every element; the clean latents are zero."""

    process = EPSILON

    def __init__(self, name):
        self.name = name

    def __call__(self, noisy, timestep, condition):
        scale = (1 - SD_ALPHAS[timestep]).sqrt().to(noisy.dtype)[:, None, None, None]
        return noisy / scale + condition[self.name].sqrt()[:, :, None, None]


def given_errors(policy, reference=None, *, score=None, valid=None):
    """Models, batch and the leaf of policy errors [B, K] for numbers per group and candidate."""
    leaf = torch.tensor(policy, dtype=torch.float64, requires_grad=True)
    condition = {"policy": leaf[..., None]}
    if reference is not None:
        condition["reference"] = torch.tensor(reference, dtype=torch.float64)[..., None]
    rows, columns = leaf.shape
    batch = LatentBatch(
        ids=tuple(f"group-{row}" for row in range(rows)),
        latents=torch.zeros((rows, columns, *LATENT), dtype=torch.float64),
        condition=condition,
        score=None if score is None else torch.tensor(score, dtype=torch.float64),
        valid=None if valid is None else torch.tensor(valid),
    )
    models = Models(
        policy=GivenErrors("policy"), reference=None if reference is None else GivenErrors("reference")
    )
    return models, batch, leaf


class GivenLogProbs:
    """A language model over two tokens; token 0 has the given log-probability at every place of a row."""

    def __init__(self, log_probs):
        self.log_probs = log_probs

    def __call__(self, tokens, attended):
        chosen = self.log_probs.flatten()
        logits = torch.stack([chosen, torch.log1p(-chosen.exp())], 1)
        return logits[:, None].expand(-1, tokens.shape[1], -1)


def given_log_probs(policy, reference, lengths):
    """Models, batch and the leaf of summed policy log-probabilities [B, K]; one prompt token before each."""
    leaf = torch.tensor(policy, dtype=torch.float64, requires_grad=True)
    count = torch.tensor(lengths, dtype=torch.float64)
    width = 1 + max(max(row) for row in lengths)
    place = torch.arange(width)
    attended = place <= count[..., None]
    batch = TokenBatch(
        ids=tuple(f"group-{row}" for row in range(len(leaf))),
        tokens=torch.zeros((*leaf.shape, width), dtype=torch.long),
        attended=attended,
        completion=attended & (place > 0),
    )
    anchor = torch.tensor(reference, dtype=torch.float64)
    models = Models(policy=GivenLogProbs(leaf / count), reference=GivenLogProbs(anchor / count))
    return models, batch, leaf


def finite_differences(function, point, width=1e-6):
    """Central differences of a scalar function of a float64 tensor."""
    gradient = torch.zeros_like(point)
    for index in range(point.numel()):
        offset = torch.zeros_like(point).flatten()
        offset[index] = width
        offset = offset.reshape(point.shape)
        difference = function(point + offset) - function(point - offset)
        gradient.flatten()[index] = difference / (2 * width)
    return gradient


def log_sigmoid(x):
    """In plain Python, for numbers that must not come from the code under test."""
    return -math.log1p(math.exp(-x)) if x > 0 else x - math.log1p(math.exp(x))
