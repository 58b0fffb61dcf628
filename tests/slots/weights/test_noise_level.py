"""Weights by noise level, by hand; every option of theirs changes the loss."""

import math
from dataclasses import replace

import pytest
import torch
from tests.laws.cases import case
from tests.slots.scripted import DRAWS

from penchant.methods.diffusion_dpo import METHOD
from penchant.protocols import Groups
from penchant.slots.compose import step
from penchant.slots.weights.noise_level import NoiseLevel, NoiseWindow


def groups(log_snr, time):
    return Groups(
        log_policy=torch.zeros((len(time), 2)), log_snr=torch.tensor(log_snr), time=torch.tensor(time)
    )


def test_sigmoid_of_bias_minus_log_snr():
    weights = NoiseLevel()(groups([1.5, 0.0, -2.0], [0.1, 0.5, 0.9]))
    # sigmoid(0), sigmoid(1.5), sigmoid(3.5)
    assert weights.tolist() == pytest.approx([0.5, 0.817574, 0.970688], abs=1e-6)
    assert NoiseLevel(bias=0.0)(groups([0.0], [0.5])).item() == 0.5


def test_noisier_groups_weigh_more():
    weights = NoiseLevel()(groups([5.0, 1.0, -1.0, -20.0], [0.1, 0.4, 0.7, 1.0]))
    assert weights.tolist() == sorted(weights.tolist())
    assert weights.min() > 0 and weights.max() <= 1


def test_a_window_is_closed_below_and_open_above():
    weights = NoiseWindow(low=0.2, high=0.6)(groups([0.0] * 5, [0.0, 0.2, 0.4, 0.6, 0.9]))
    assert weights.tolist() == [0, 1, 1, 0, 0]


def test_the_whole_window_keeps_every_timestep():
    assert NoiseWindow()(groups([0.0] * 3, [0.0, 0.5, 0.999])).tolist() == [1, 1, 1]


@pytest.mark.parametrize(("low", "high"), [(0.5, 0.5), (0.6, 0.4), (-0.1, 1.0), (0.0, 1.1), (math.nan, 1.0)])
def test_a_window_that_is_none_is_refused(low, high):
    with pytest.raises(ValueError, match="need 0 <= low < high <= 1, got low"):
        NoiseWindow(low=low, high=high)


def test_every_option_changes_the_loss():
    this = case(METHOD)
    models = this.models()

    def loss(weight):
        return step(replace(METHOD, weight=weight), models, this.batch, DRAWS).loss.item()

    losses = [
        loss(METHOD.weight),
        loss(NoiseLevel()),
        loss(NoiseLevel(bias=0.0)),
        loss(NoiseWindow(low=0.5)),
        loss(NoiseWindow(high=0.5)),
    ]
    assert len(set(losses)) == len(losses)
    # a window and its complement share the loss out between them
    assert losses[3] + losses[4] == pytest.approx(losses[0], rel=1e-6)
