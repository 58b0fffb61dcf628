"""Learning rates by hand; nothing scales them."""

import pytest
import torch

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
    low_bit = build_optimizer(parameters, name="adamw-8bit", learning_rate=0.02, **rest).param_groups[0]
    assert (low_bit["lr"], tuple(low_bit["betas"]), low_bit["weight_decay"], low_bit["eps"]) == (
        0.02,
        (0.8, 0.95),
        0.3,
        1e-6,
    )


@pytest.mark.parametrize(("name", "copies"), [("adamw", 1), ("adamw-8bit", 4096)])
def test_first_step_of_adamw_by_hand(name, copies):
    """m / sqrt(v) is the sign of the gradient; decay takes lr * 0.1 of the weight."""
    parameter = torch.nn.Parameter(torch.tensor([2.0, -2.0]).repeat(copies))
    parameter.grad = torch.tensor([5.0, -0.1]).repeat(copies)
    build_optimizer(
        [parameter], name=name, learning_rate=0.1, betas=(0.9, 0.999), weight_decay=0.1, epsilon=1e-8
    ).step()
    expected = torch.tensor([2 - 0.02 - 0.1, -2 + 0.02 + 0.1]).repeat(copies)
    torch.testing.assert_close(parameter.data, expected)
