"""Conversions between what diffusion networks predict.  Axes: N samples, D axes of one sample.

With x_t = signal * x0 + noise_scale * eps, and signal^2 + noise_scale^2 = 1:
eps: eps.  x0 ("sample"): x0.  v: signal * eps - noise_scale * x0.
"""

from typing import Literal

from jaxtyping import Float
from torch import Tensor

Prediction = Literal["epsilon", "v_prediction", "sample"]


def target(
    prediction: Prediction,
    clean: Float[Tensor, " N *D"],
    noise: Float[Tensor, " N *D"],
    signal: Float[Tensor, "N *#D"],
    noise_scale: Float[Tensor, "N *#D"],
) -> Float[Tensor, " N *D"]:
    """What a network of the given prediction type should output.

    Source:
        v: Salimans and Ho 2022, arXiv:2202.00512.
    """
    if prediction == "epsilon":
        return noise
    if prediction == "sample":
        return clean
    return signal * noise - noise_scale * clean


def clean_and_noise(
    prediction: Prediction,
    output: Float[Tensor, " N *D"],
    noisy: Float[Tensor, " N *D"],
    signal: Float[Tensor, "N *#D"],
    noise_scale: Float[Tensor, "N *#D"],
) -> tuple[Float[Tensor, " N *D"], Float[Tensor, " N *D"]]:
    """The estimates of x0 and eps that a network's output stands for."""
    if prediction == "epsilon":
        return (noisy - noise_scale * output) / signal, output
    if prediction == "sample":
        return output, (noisy - signal * output) / noise_scale
    return signal * noisy - noise_scale * output, signal * output + noise_scale * noisy
