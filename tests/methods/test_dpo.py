"""DPO on tokens: worked example E1, batch E2, and a float64 computation in plain torch."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.laws.cases import case
from tests.slots.scripted import DRAWS, given_log_probs, log_sigmoid

from penchant.methods.dpo import METHOD
from penchant.slots.compose import step
from penchant.slots.objectives.pairwise import Hinge, Logistic, Squared
from penchant.slots.ratios.tokens import Tokens

# E1: sums -10 and -12 (reference -11 and -11.5) over 5 and 4 tokens: h_w = 1, h_l = -0.5, margin 1.5
E1 = ([[-10.0, -12.0]], [[-11.0, -11.5]], [[5, 4]])


def one_step(objective, ratio=None, case=E1):
    models, batch, leaf = given_log_probs(*case)
    out = step(replace(METHOD, objective=objective, ratio=ratio or METHOD.ratio), models, batch, DRAWS)
    out.loss.backward()
    return out, leaf.grad


@pytest.mark.parametrize(
    ("objective", "loss", "winner_gradient"),
    [
        (Logistic(beta=0.1), 0.620957, -0.046257),
        (Logistic(beta=0.1, label_smoothing=0.1), 0.635957, -0.036257),
        (Squared(beta=0.1), 12.25, -7.0),
        (Hinge(beta=0.1), 0.85, -0.1),
    ],
)
def test_worked_example_through_a_whole_step(objective, loss, winner_gradient):
    out, gradient = one_step(objective)
    assert out.loss.item() == pytest.approx(loss, abs=1e-6)
    assert gradient[0].tolist() == pytest.approx([winner_gradient, -winner_gradient], abs=1e-6)


def test_squared_loss_on_token_means():
    # h_w / 5 - h_l / 4 = 0.2 + 0.125;  (0.325 - 5)^2
    out, _ = one_step(Squared(beta=0.1), Tokens(reduction="mean"))
    assert out.loss.item() == pytest.approx(21.855625, abs=1e-9)


def test_length_normalised_dpo():
    out, _ = one_step(Logistic(beta=10.0), Tokens(reduction="mean"))
    assert out.loss.item() == pytest.approx(0.038041, abs=1e-6)  # z = 3.25


def test_the_batch_loss_is_the_mean_of_log_sigmoids():
    """Margins 1.5, 0.3, -0.5 at beta 0.1; the log-sigmoid of the mean margin would be 0.671773."""
    policy = [[-10.0, -12.0], [-10.0, -12.0], [-10.0, -12.0]]
    reference = [[-11.0, -11.5], [-10.4, -12.1], [-9.8, -12.3]]
    out, _ = one_step(Logistic(beta=0.1), case=(policy, reference, [[5, 4]] * 3))
    assert out.loss.item() == pytest.approx(0.672559, abs=1e-6)
    assert out.loss.item() == pytest.approx(-sum(map(log_sigmoid, (0.15, 0.03, -0.05))) / 3, abs=1e-12)
    assert -log_sigmoid(0.1 * 1.3 / 3) != pytest.approx(out.loss.item(), abs=5e-4)


def test_the_logged_numbers_of_the_worked_example():
    measured = one_step(Logistic(beta=0.1))[0].measured
    expected = {"margin/mean": 1.5, "log_ratio/winner": 1.0, "log_ratio/loser": -0.5, "margin/positive": 1.0}
    for name, value in expected.items():
        assert measured[name].item() == pytest.approx(value, abs=1e-6), name
    assert measured["gradient/factor"].item() == pytest.approx(1 / (1 + math.exp(0.15)), abs=1e-6)


def test_every_token_of_the_winner_gets_the_same_gradient_and_they_sum_to_the_closed_form():
    this = case(METHOD)
    this.policy = this.policy.double()
    models = this.models()
    seen = []

    def policy(tokens, attended):
        logits = models.policy(tokens, attended)
        logits.retain_grad()
        seen.append(logits)
        return logits

    out = step(METHOD, replace(models, policy=policy), this.batch, DRAWS)
    out.loss.backward()
    factor = torch.sigmoid(-0.1 * out.measured["margin/mean"].double())
    logits, gradient = seen[0].detach(), seen[0].grad
    tokens, completion = this.batch.tokens.flatten(0, 1), this.batch.completion.flatten(0, 1)
    sign = torch.tensor([1.0, -1.0]).repeat(len(factor))
    for row, (sequence, mask) in enumerate(zip(tokens, completion, strict=True)):
        for place in range(1, len(sequence)):
            expected = torch.zeros_like(logits[row, place])
            if mask[place]:
                one_hot = torch.nn.functional.one_hot(sequence[place], len(expected)).double()
                probabilities = logits[row, place - 1].softmax(0)
                expected = (
                    -sign[row] * 0.1 * factor[row // 2] * (one_hot - probabilities) / len(factor)
                ).double()
            torch.testing.assert_close(gradient[row, place - 1], expected, rtol=1e-5, atol=1e-9)


def test_plain_torch_in_float64_gives_the_same_loss_and_gradient():
    """The way trainers of language models do it: shift labels and mask, gather from log_softmax."""
    this = case(METHOD)
    this.policy = this.policy.double()
    models, batch = this.models(), this.batch
    ours = step(METHOD, models, batch, DRAWS).loss
    ours.backward()
    gradient = [p.grad.clone() for p in this.policy.parameters()]
    this.policy.zero_grad()

    def log_probs(model, column):
        labels, mask = batch.tokens[:, column, 1:], batch.completion[:, column, 1:]
        logits = model(batch.tokens[:, column], batch.attended[:, column])[:, :-1]
        per_token = logits.log_softmax(-1).gather(2, labels.unsqueeze(2)).squeeze(2)
        return (per_token * mask).sum(-1)

    chosen = log_probs(models.policy, 0) - log_probs(models.reference, 0).detach()
    rejected = log_probs(models.policy, 1) - log_probs(models.reference, 1).detach()
    theirs = -torch.nn.functional.logsigmoid(0.1 * (chosen - rejected)).mean()
    theirs.backward()
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient, [p.grad for p in this.policy.parameters()], rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_policy_equal_to_reference_costs_log_2_in_every_precision(dtype):
    this = case(METHOD)
    this.policy = this.policy.to(dtype)
    out = step(METHOD, this.models(moved=False), this.batch, DRAWS)
    assert out.measured["margin/mean"].abs().max().item() == 0
    assert out.loss.item() == pytest.approx(math.log(2), abs=1e-7)


def test_padding_columns_change_nothing():
    this = case(METHOD)
    models = this.models()
    base = step(METHOD, models, this.batch, DRAWS).loss
    more = {
        "tokens": torch.full((6, 2, 3), 5),
        "attended": torch.zeros((6, 2, 3), dtype=torch.bool),
        "completion": torch.zeros((6, 2, 3), dtype=torch.bool),
    }
    wider = replace(this.batch, **{k: torch.cat([getattr(this.batch, k), v], 2) for k, v in more.items()})
    torch.testing.assert_close(step(METHOD, models, wider, DRAWS).loss, base)


@settings(max_examples=12)
@given(st.floats(-30, -1), st.floats(-30, -1), st.floats(0.01, 2))
def test_exchanging_the_answers_turns_z_into_minus_z(winner, loser, beta):
    reference = [[-8.0, -9.0]]
    loss = one_step(Logistic(beta=beta), case=([[winner, loser]], reference, [[4, 4]]))[0].loss
    swapped = one_step(Logistic(beta=beta), case=([[loser, winner]], [[-9.0, -8.0]], [[4, 4]]))[0].loss
    z = beta * ((winner + 8.0) - (loser + 9.0))
    assert (loss - swapped).item() == pytest.approx(-z, abs=1e-6)


def test_the_policy_object_is_not_changed_by_a_step():
    this = case(METHOD)
    before = copy.deepcopy(this.policy.state_dict())
    step(METHOD, this.models(), this.batch, DRAWS).loss.backward()
    for name, value in this.policy.state_dict().items():
        assert torch.equal(value, before[name])
