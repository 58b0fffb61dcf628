"""Frozen weights in few bits: how far policy and reference move, and what is refused."""

import sys

import pytest
import torch
from bitsandbytes.nn import Linear4bit, Linear8bitLt
from tests import small
from torch import nn

from penchant.errors import ConfigError
from penchant.training.loop import accumulate
from penchant.training.quantized import bitsandbytes, quantize


def bytes_of(network):
    return sum(p.numel() * p.element_size() for p in network.parameters())


@pytest.fixture
def margins(options):
    """Margins of the shipped model with an adapter of random weights, the same in every call."""

    def measured(**changes):
        changes |= {"model": "emoji", "training.precision": "bfloat16", "training.batch_size": 12}
        parts = small.assembled(options(**changes))
        torch.manual_seed(0)
        for parameter in (p for p in parts.bare.parameters() if p.requires_grad):
            parameter.data = 0.3 * torch.randn(parameter.shape)
        outputs = accumulate(
            parts.method, parts.models, parts.network, parts.sources.train(0), parts.accelerator
        )
        assert all(p.grad is not None for p in parts.bare.parameters() if p.requires_grad)
        return torch.cat([output.measured["margin/mean"] for output in outputs])

    return measured


@pytest.mark.parametrize(("kind", "tolerance"), [("int8", 0.03), ("nf4", 0.5)])
def test_margins_are_those_of_the_unquantized_model(margins, kind, tolerance):
    whole, quantized = margins(), margins(**{"training.quantized": kind})
    assert not torch.equal(whole, quantized)
    assert (quantized - whole).norm() < tolerance * whole.norm()


def test_linear_layers_alone_change_and_take_a_half_and_a_quarter_of_the_bytes():
    torch.manual_seed(0)
    half = nn.Sequential(nn.Linear(128, 256), nn.Conv2d(4, 4, 3), nn.Sequential(nn.Linear(256, 128)))
    kept = nn.Linear(8, 8)
    network = nn.ModuleDict({"low": half.to(torch.bfloat16), "kept": kept})
    before = [bytes_of(half[0]), bytes_of(half[1]), bytes_of(half[2])]
    quantize(network.requires_grad_(False), "int8")
    assert isinstance(network.low[0], Linear8bitLt) and isinstance(network.low[2][0], Linear8bitLt)
    assert type(network.low[1]) is nn.Conv2d and network.kept is kept
    assert bytes_of(half[1]) == before[1]
    assert bytes_of(half[0]) == pytest.approx(before[0] / 2, rel=0.02)


def test_four_bits_are_two_numbers_in_a_byte():
    network = nn.Sequential(nn.Linear(128, 256, bias=False)).to(torch.bfloat16).requires_grad_(False)
    weight, x = network[0].weight.float(), torch.randn(4, 128)
    quantize(network, "nf4")
    assert isinstance(network[0], Linear4bit) and bytes_of(network) == 128 * 256 // 2
    difference = network(x.bfloat16()).float() - x @ weight.T
    assert 0 < difference.norm() < 0.15 * (x @ weight.T).norm()


def test_without_the_package_the_user_is_told_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ConfigError) as refused:
        bitsandbytes("training.optimizer: adamw-8bit")
    assert str(refused.value) == (
        "training.optimizer: adamw-8bit needs the package bitsandbytes, which is not installed. Install it "
        "with `pip install 'penchant[low-bit]'`, or leave the option out."
    )
