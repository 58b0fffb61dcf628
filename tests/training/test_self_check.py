"""What the first batch must show, and what is said if it does not."""

import dataclasses
import math

import pytest
import torch
from tests import small

from penchant.errors import TrainingStopped
from penchant.protocols import Models
from penchant.training.self_check import self_check


def check(parts, models=None):
    return self_check(
        parts.method,
        models or parts.models,
        parts.network,
        parts.sources.train(0),
        parts.optimizer,
        accelerator=parts.accelerator,
        steps=7,
        learning_rate=0.001,
    )


@pytest.fixture
def parts(options):
    return small.assembled(options())


def test_a_sound_start(parts):
    before = {name: value.clone() for name, value in parts.bare.state_dict().items()}
    found = check(parts)
    assert found.loss == pytest.approx(0.693147, abs=1e-6)
    assert (found.margin, found.batch_size, found.samples) == (0, 4, 28)
    trained = sum(p.numel() for n, p in parts.bare.named_parameters() if "lora" in n)
    total = sum(p.numel() for p in parts.bare.parameters())
    norm = f"{found.gradient_norm:.3g}"
    assert found.lines() == [
        f"loss 0.6931, margin 0, gradient norm {norm}",
        f"{trained:,} of {total:,} parameters train ({trained / total:.2%})",
        "learning rate 0.001 (as given, not scaled), 4 groups per step, 28 groups in all",
    ]
    assert all(torch.equal(value, before[name]) for name, value in parts.bare.state_dict().items())
    assert all(p.grad is None for p in parts.bare.parameters()) and not parts.optimizer.state


def test_a_policy_that_is_not_the_reference_is_named(parts):
    torch.manual_seed(0)
    for name, parameter in parts.bare.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_()
    with pytest.raises(
        TrainingStopped, match=r"^self-check: policy and reference differ before the first step,"
    ):
        check(parts)


def test_a_dead_gradient_is_named(options):
    """A ratio whose gradient vanishes at the reference."""
    ratio = {"kind": "drift-from-reference"}
    stuck = small.assembled(options(ratio=ratio, experimental=True, **{"health.winner_error_limit": None}))
    with pytest.raises(TrainingStopped) as caught:
        check(stuck)
    assert str(caught.value) == (
        "self-check: the gradient is exactly 0. Usual causes: identical images in every pair, or a form of "
        "loss that is stuck at the reference."
    )


def test_form_l2_starts_with_a_term_that_moves_it_and_its_objective_is_still_log_2(options):
    ratio, term = {"kind": "drift-from-reference"}, {"kind": "winner-likelihood", "coefficient": 3.0}
    checked = check(small.assembled(options(ratio=ratio, experimental=True, terms=[term])))
    assert checked.gradient_norm > 0
    assert checked.margin == 0
    assert checked.objective == pytest.approx(math.log(2), abs=1e-6)
    assert checked.loss > checked.objective + 0.01  # half of three times the winners' error
    assert "(its objective 0.6931, the rest weights and terms)" in checked.lines()[0]


def test_nothing_that_trains_is_named(parts):
    parts.bare.requires_grad_(False)
    reference = dataclasses.replace(parts.models.reference.denoiser)
    models = Models(policy=parts.models.policy, reference=reference)
    with pytest.raises(
        TrainingStopped, match="self-check: no parameter trains. Check mode and lora.targets."
    ):
        check(parts, models)


def test_a_loss_that_is_not_log_2_is_named(parts):
    """A logistic loss that is wired wrongly."""
    from penchant.training import self_check as module

    real = module.aggregate
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "aggregate", lambda *args: real(*args) | {"loss/objective": 0.5})
        with pytest.raises(
            TrainingStopped, match=r"^self-check: the objective is 0.500000, not log 2 = 0.693147"
        ):
            check(parts)
