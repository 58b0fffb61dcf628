"""Colourfulness: values worked by hand."""

import pytest
import torch

from penchant.protocols import Reward
from penchant.rewards import catalog
from penchant.rewards.colourfulness import Colourfulness, hasler_suesstrunk


def test_the_catalogue_finds_it_and_it_is_a_reward():
    assert catalog.get("colourfulness") is Colourfulness
    assert isinstance(Colourfulness(), Reward)


def test_grey_has_no_colour():
    ramp = torch.linspace(0, 1, 64).reshape(1, 1, 8, 8).expand(2, 3, 8, 8)
    torch.testing.assert_close(Colourfulness()(ramp, ["", ""]), torch.zeros(2))


def test_flat_red_worked_by_hand():
    # rg = 255, yb = 127.5, no spread: 0.3 * sqrt(255^2 + 127.5^2) = 0.3 * 285.0987 = 85.5296
    red = torch.zeros(1, 3, 4, 4)
    red[:, 0] = 1
    assert hasler_suesstrunk(red).item() == pytest.approx(85.5296, abs=1e-3)


def test_half_red_half_white_worked_by_hand():
    # rg is 255 or 0: mean 127.5, deviation 127.5; yb is 127.5 or 0: mean 63.75, deviation 63.75
    # sqrt(127.5^2 + 63.75^2) = 142.5493; M = 1.3 * 142.5493 = 185.3141
    image = torch.ones(1, 3, 4, 4)
    image[:, 1:, :2] = 0
    assert hasler_suesstrunk(image).item() == pytest.approx(185.3141, abs=1e-3)
