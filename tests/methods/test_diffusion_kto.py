"""Diffusion-KTO against worked numbers: five utilities, two rules for the reference point."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.slots.scripted import DRAWS, finite_differences, given_errors

from penchant.methods.diffusion_kto import METHOD, HumanUtility, reference_point
from penchant.protocols import Groups
from penchant.slots.compose import step

GAINS, LABELS = (0.010, -0.005, 0.004, 0.001, 0.002), (1, -1, 1, -1, 1)
WORKED = {
    "batch": dict(
        sigmoid=0.347202,
        loss_averse=1.449128,
        risk_seeking_1=0.506075,
        risk_seeking_2=1.792958,
        risk_seeking_3=-0.153128,
    ),
    "class_balanced": dict(
        sigmoid=0.340588,
        loss_averse=1.436567,
        risk_seeking_1=0.468499,
        risk_seeking_2=1.792654,
        risk_seeking_3=-0.169900,
    ),
}


def loss_of(objective, gains=GAINS, labels=LABELS):
    models, batch, _ = given_errors(
        [[0.1 - gain] for gain in gains], [[0.1] for _ in gains], score=[[float(y)] for y in labels]
    )
    return step(replace(METHOD, objective=objective), models, batch, DRAWS).loss.item()


@pytest.mark.parametrize("rule", WORKED)
@pytest.mark.parametrize("utility", WORKED["batch"])
def test_the_worked_batch_through_a_whole_step(rule, utility):
    objective = HumanUtility(beta=200.0, utility=utility, reference=rule)
    assert loss_of(objective) == pytest.approx(WORKED[rule][utility], abs=1e-6)


def test_the_worked_reference_points():
    gains = torch.tensor(GAINS, dtype=torch.float64)
    labels = torch.tensor(LABELS, dtype=torch.float64)
    assert reference_point(gains, labels, "batch").item() == pytest.approx(0.0024, abs=1e-15)
    # (0.016 / 3 + (-0.004) / 2) / 2
    assert reference_point(gains, labels, "class_balanced").item() == pytest.approx(0.00166667, abs=1e-8)


def test_only_the_batch_rule_is_clamped_at_zero():
    gains, labels = (-0.010, 0.002), (1, -1)
    tensors = torch.tensor(gains, dtype=torch.float64), torch.tensor(labels, dtype=torch.float64)
    assert reference_point(*tensors, "batch").item() == 0
    assert reference_point(*tensors, "class_balanced").item() == pytest.approx(-0.004, abs=1e-15)
    assert loss_of(HumanUtility(beta=200.0), gains, labels) == pytest.approx(0.739742, abs=1e-6)
    balanced = HumanUtility(beta=200.0, reference="class_balanced")
    assert loss_of(balanced, gains, labels) == pytest.approx(0.768525, abs=1e-6)


def test_a_class_that_is_absent_counts_as_zero():
    gains = torch.tensor([0.01, 0.03], dtype=torch.float64)
    assert reference_point(gains, torch.ones_like(gains), "class_balanced").item() == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("utility", "expected"),
    [("sigmoid", 0.5), ("loss_averse", 1 + math.log(2)), ("risk_seeking_3", 1 - math.log(2))],
)
def test_the_loss_at_the_reference(utility, expected):
    objective = HumanUtility(beta=1000.0, utility=utility)
    assert loss_of(objective, (0.0, 0.0), (1, -1)) == pytest.approx(expected, abs=1e-12)


def test_class_weights_multiply_their_class():
    # gains 0, so both samples cost 0.5
    heavy = HumanUtility(beta=200.0, desirable_weight=3.0, undesirable_weight=2.0)
    assert loss_of(heavy, (0.0, 0.0), (1, -1)) == pytest.approx((1.5 + 1.0) / 2, abs=1e-12)
    assert loss_of(heavy, (0.0, 0.0), (1, 1)) == pytest.approx(1.5, abs=1e-12)


def groups(gains, labels, whole=None):
    policy = torch.as_tensor(gains, dtype=torch.float64)[:, None]
    made = Groups(
        log_policy=policy,
        log_reference=torch.zeros_like(policy),
        score=torch.as_tensor(labels, dtype=torch.float64)[:, None],
    )
    return replace(made, whole=made.detach() if whole is None else whole)


def test_the_reference_point_is_over_the_global_batch_and_not_over_the_micro_batch():
    whole = groups(GAINS, LABELS)
    objective = HumanUtility(beta=200.0)
    together = objective(whole)
    alone = [
        objective(groups(GAINS[i : i + 1], LABELS[i : i + 1], whole.detach())) for i in range(len(GAINS))
    ]
    torch.testing.assert_close(torch.cat(alone), together)
    local = objective(groups(GAINS[:1], LABELS[:1]))  # a local mean is the sample itself: no pull at all
    assert local.item() == pytest.approx(0.5, abs=1e-12)


@given(st.lists(st.floats(-0.02, 0.02), min_size=2, max_size=5), st.booleans())
def test_gradient_is_the_closed_form_with_a_detached_reference_point(gains, first_desirable):
    labels = [1.0 if (index % 2 == 0) == first_desirable else -1.0 for index in range(len(gains))]
    whole = groups(gains, labels).detach()
    leaf = torch.tensor(gains, dtype=torch.float64, requires_grad=True)
    objective = HumanUtility(beta=100.0)

    def total(point):
        made = replace(groups(gains, labels, whole), log_policy=point[:, None])
        return objective(made).sum()

    total(leaf).backward()
    label = torch.tensor(labels, dtype=torch.float64)
    value = torch.sigmoid(label * 100 * (leaf.detach() - max(0.0, sum(gains) / len(gains))))
    torch.testing.assert_close(leaf.grad, -label * 100 * value * (1 - value))
    torch.testing.assert_close(
        finite_differences(lambda p: total(p).detach(), leaf.detach(), 1e-6), leaf.grad, rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("utility", WORKED["batch"])
@given(st.floats(-0.01, 0.01), st.sampled_from([1, -1]))
def test_desirable_samples_are_pulled_up_and_undesirable_ones_down(utility, gain, label):
    objective = HumanUtility(beta=200.0, utility=utility)
    leaf = torch.tensor([gain, 0.003], dtype=torch.float64, requires_grad=True)
    made = groups([gain, 0.003], [label, -label])
    objective(replace(made, log_policy=leaf[:, None]))[0].backward()
    assert torch.sign(leaf.grad[0]).item() == -label


@pytest.mark.parametrize("gain", [0.2, -0.2])
def test_the_pull_vanishes_far_from_the_reference_point(gain):
    leaf = torch.tensor([gain, 0.0], dtype=torch.float64, requires_grad=True)
    made = groups([gain, 0.0], [1, -1])
    HumanUtility(beta=1000.0)(replace(made, log_policy=leaf[:, None]))[0].backward()
    assert abs(leaf.grad[0].item()) < 1e-12


def test_options_out_of_range_are_refused():
    for name in ("beta", "desirable_weight", "undesirable_weight"):
        with pytest.raises(ValueError, match=f"{name} must be > 0, got -1"):
            HumanUtility(**{"beta": 1.0, name: -1.0})
