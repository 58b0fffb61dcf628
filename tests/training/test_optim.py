"""Learning rates by hand; nothing scales them."""

import sys

import pytest
import torch
from torch._inductor import config as inductor

from penchant.errors import ConfigError
from penchant.training.optim import build_optimizer, build_schedule


def rates(name, *, warmup_steps, steps):
    """The learning rate of every step, of a peak of 1."""
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    schedule = build_schedule(optimizer, name=name, warmup_steps=warmup_steps, steps=steps)
    seen = []
    for _ in range(steps):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return seen


@pytest.mark.parametrize(
    ("name", "warmup", "expected"),
    [
        ("constant", 0, [1, 1, 1, 1, 1]),
        ("constant", 3, [0.25, 0.5, 0.75, 1, 1]),
        ("linear", 0, [1, 0.8, 0.6, 0.4, 0.2]),
        ("linear", 1, [0.5, 1, 0.75, 0.5, 0.25]),
        ("cosine", 1, [0.5, 1, 0.853553, 0.5, 0.146447]),  # (1 + cos(pi k / 4)) / 2
        ("linear", 5, [1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6]),
    ],
)
def test_learning_rates_by_hand(name, warmup, expected):
    assert rates(name, warmup_steps=warmup, steps=5) == pytest.approx(expected, abs=1e-6)


def test_the_options_reach_the_optimizer():
    parameters = [torch.nn.Parameter(torch.zeros(2))]
    rest = {"betas": (0.8, 0.95), "weight_decay": 0.3, "epsilon": 1e-6}
    adamw = build_optimizer(parameters, name="adamw", learning_rate=0.02, **rest).param_groups[0]
    assert (adamw["lr"], adamw["betas"], adamw["weight_decay"], adamw["eps"]) == (
        0.02,
        (0.8, 0.95),
        0.3,
        1e-6,
    )
    adafactor = build_optimizer(parameters, name="adafactor", learning_rate=0.02, **rest)
    assert isinstance(adafactor, torch.optim.Adafactor)
    assert (adafactor.param_groups[0]["lr"], adafactor.param_groups[0]["weight_decay"]) == (0.02, 0.3)
    for name in ("adamw-8bit", "adamw-4bit"):
        low_bit = build_optimizer(parameters, name=name, learning_rate=0.02, **rest).param_groups[0]
        assert float(low_bit["lr"]) == pytest.approx(0.02)
        assert (tuple(low_bit["betas"]), low_bit["weight_decay"], low_bit["eps"]) == ((0.8, 0.95), 0.3, 1e-6)


@pytest.mark.parametrize(("name", "copies"), [("adamw", 1), ("adamw-8bit", 4096), ("adamw-4bit", 4096)])
def test_first_step_of_adamw_by_hand(name, copies):
    """m / sqrt(v) is the sign of the gradient; decay takes lr * 0.1 of the weight."""
    parameter = torch.nn.Parameter(torch.tensor([2.0, -2.0]).repeat(copies))
    parameter.grad = torch.tensor([5.0, -0.1]).repeat(copies)
    build_optimizer(
        [parameter], name=name, learning_rate=0.1, betas=(0.9, 0.999), weight_decay=0.1, epsilon=1e-8
    ).step()
    expected = torch.tensor([2 - 0.02 - 0.1, -2 + 0.02 + 0.1]).repeat(copies)
    torch.testing.assert_close(parameter.data, expected)


def test_moments_in_four_bits_follow_those_of_32():
    """Down a bowl: the small tensor goes the same way, at falling rates; the large one goes down as well."""
    ends = []
    for name in ("adamw", "adamw-4bit"):
        torch.manual_seed(0)
        goal, weights = torch.randn(64, 64), [torch.nn.Parameter(torch.zeros(64, n)) for n in (64, 2)]
        optimizer = build_optimizer(
            weights, name=name, learning_rate=0.05, betas=(0.9, 0.999), weight_decay=0, epsilon=1e-8
        )
        schedule = build_schedule(optimizer, name="linear", warmup_steps=0, steps=100)
        for _ in range(100):
            optimizer.zero_grad()
            sum((weight - goal[:, : weight.shape[1]]).square().sum() for weight in weights).backward()
            optimizer.step()
            schedule.step()
        ends.append([weight.detach() for weight in weights])
    assert 0.1 < (ends[0][0] - goal).norm() / goal.norm() < (ends[1][0] - goal).norm() / goal.norm() < 0.5
    torch.testing.assert_close(ends[1][1], ends[0][1])


def test_without_its_package_or_a_compiler_four_bits_are_refused(monkeypatch):
    def build():
        parameter = torch.nn.Parameter(torch.zeros(4096))
        build_optimizer(
            [parameter], name="adamw-4bit", learning_rate=1, betas=(0, 0), weight_decay=0, epsilon=1
        )

    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "torchao.optim", None)
        with pytest.raises(ConfigError, match=r"adamw-4bit needs the package torchao.*penchant\[four-bit\]"):
            build()
    torch.compiler.reset()  # of what this process has compiled before
    without = inductor.patch({"cpp.cxx": (None, "no-such-compiler")})
    with without, pytest.raises(ConfigError, match=r"adamw-4bit: .*compiled here .*C\+\+ compiler"):
        build()
