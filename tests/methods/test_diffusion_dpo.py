"""Diffusion-DPO against the numbers of its paper's formula and the published script's way of computing it."""

import copy
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.laws.cases import case
from tests.slots.scripted import DRAWS, finite_differences, given_errors, log_sigmoid

from penchant.methods.diffusion_dpo import METHOD
from penchant.protocols import Models
from penchant.slots.compose import step
from penchant.slots.objectives.pairwise import Hinge, Logistic, Squared
from penchant.slots.ratios.denoising import Denoising, DriftFromReference

POLICY, REFERENCE = [[0.10, 0.12]], [[0.11, 0.115]]  # Delta = 0.01 - (-0.005) = 0.015
errors = st.floats(0.02, 1.0)
pairs_of_errors = st.lists(st.tuples(errors, errors), min_size=1, max_size=4)


def method(objective, ratio=None):
    return replace(METHOD, objective=objective, ratio=ratio or METHOD.ratio)


def loss_of(objective, ratio=None, policy=POLICY, reference=REFERENCE):
    models, batch, _ = given_errors(policy, reference)
    return step(method(objective, ratio), models, batch, DRAWS).loss.item()


def test_the_worked_pair_through_a_whole_step():
    # z = 0.5 * 200 * 0.015 = 1.5;  log(1 + exp(-1.5)) = 0.201413
    assert loss_of(Logistic(beta=200.0)) == pytest.approx(0.201413, abs=1e-6)
    assert loss_of(Logistic(beta=200.0)) == pytest.approx(-log_sigmoid(1.5), abs=1e-12)


def test_without_the_half_the_pull_is_twice_as_strong():
    # z = 200 * 0.015 = 3
    assert loss_of(Logistic(beta=200.0), Denoising(scale=1.0)) == pytest.approx(0.048587, abs=1e-6)


def test_without_the_half_and_with_half_the_beta_it_is_the_same():
    """Ports drop the 1/2 and turn beta 5000 into 2500."""
    assert loss_of(Logistic(beta=2500.0), Denoising(scale=1.0)) == pytest.approx(
        loss_of(Logistic(beta=5000.0)), abs=1e-15
    )


def test_beta_on_sums_is_beta_on_means_over_the_number_of_elements():
    on_sums = loss_of(Logistic(beta=200.0 / 8), Denoising(reduction="sum"))  # a latent of 2 x 2 x 2
    assert on_sums == pytest.approx(loss_of(Logistic(beta=200.0)), abs=1e-12)
    assert pytest.approx(0.152588, abs=1e-6) == 0.5 * 5000 / 16384  # Stable Diffusion at 512 px


def test_swapped_winner_and_loser():
    swapped = loss_of(Logistic(beta=200.0), policy=[[0.12, 0.10]], reference=[[0.115, 0.11]])
    assert swapped == pytest.approx(1.701413, abs=1e-6)


def test_label_smoothing():
    smoothed = loss_of(Logistic(beta=200.0, label_smoothing=0.1))
    assert smoothed == pytest.approx(0.351413, abs=1e-6)
    assert smoothed == pytest.approx(0.9 * 0.201413 + 0.1 * 1.701413, abs=1e-6)


def test_hinge_and_squared_losses_on_the_whole_drop():
    whole = Denoising(scale=1.0)
    assert loss_of(Hinge(beta=50.0), whole) == pytest.approx(0.25, abs=1e-12)  # 1 - 50 * 0.015
    assert loss_of(Squared(beta=0.1), whole) == pytest.approx(24.850225, abs=1e-9)  # (0.015 - 5)^2


def test_gradient_of_the_worked_pair():
    models, batch, leaf = given_errors(POLICY, REFERENCE)
    step(method(Logistic(beta=200.0)), models, batch, DRAWS).loss.backward()
    # 0.5 * 200 * sigmoid(-1.5) = 100 * 0.18242552
    assert leaf.grad[0].tolist() == pytest.approx([18.242552, -18.242552], abs=1e-6)


@settings(max_examples=12)
@given(pairs_of_errors, pairs_of_errors, st.floats(1, 200))
def test_gradient_is_the_closed_form_and_the_finite_difference(policy, reference, beta):
    count = min(len(policy), len(reference))
    policy, reference = [list(p) for p in policy[:count]], [list(p) for p in reference[:count]]
    this = method(Logistic(beta=beta))
    models, batch, leaf = given_errors(policy, reference)
    step(this, models, batch, DRAWS).loss.backward()
    drop = torch.tensor(reference, dtype=torch.float64) - leaf.detach()
    pull = 0.5 * beta * torch.sigmoid(-0.5 * beta * (drop[:, 0] - drop[:, 1])) / count
    torch.testing.assert_close(leaf.grad, torch.stack([pull, -pull], 1))

    def loss_at(point):
        models, batch, _ = given_errors(point.tolist(), reference)
        return step(this, models, batch, DRAWS).loss.detach()

    # the third derivative is at most beta^3 / 60, times width^2 / 6: below the tolerance
    torch.testing.assert_close(
        finite_differences(loss_at, leaf.detach(), 1e-5), leaf.grad, rtol=1e-4, atol=1e-4
    )


@settings(max_examples=12)
@given(pairs_of_errors, st.floats(0, 2), st.sampled_from(["policy", "reference"]))
def test_a_constant_added_to_both_errors_changes_nothing(policy, constant, where):
    policy = [list(p) for p in policy]
    reference = [[0.3, 0.2]] * len(policy)
    moved = [[e + constant for e in row] for row in (policy if where == "policy" else reference)]
    now = (moved, reference) if where == "policy" else (policy, moved)
    for objective in (Logistic(beta=50.0), Hinge(beta=2.0), Squared(beta=0.5)):
        before = loss_of(objective, policy=policy, reference=reference)
        assert loss_of(objective, policy=now[0], reference=now[1]) == pytest.approx(before, rel=1e-9)


def test_the_loss_is_the_mean_of_log_sigmoids_and_not_the_log_sigmoid_of_the_mean():
    # beta 200, z = 1.5 and -1.5: the mean is 0.951413; the other order would give log 2
    both = loss_of(
        Logistic(beta=200.0), policy=[[0.10, 0.12], [0.12, 0.10]], reference=[[0.11, 0.115], [0.115, 0.11]]
    )
    assert both == pytest.approx((0.201413 + 1.701413) / 2, abs=1e-6)
    assert abs(both - math.log(2)) > 0.25


def test_the_logged_numbers_of_the_worked_pair():
    models, batch, _ = given_errors(POLICY, REFERENCE)
    measured = step(method(Logistic(beta=200.0)), models, batch, DRAWS).measured
    expected = {
        "margin/mean": 0.5 * 0.015,
        "margin/positive": 1.0,
        "log_ratio/winner": 0.5 * 0.01,
        "log_ratio/loser": -0.5 * 0.005,
        "error/winner_change": -0.01,
        "error/loser_change": 0.005,
        "gradient/factor": 0.18242552,  # sigmoid(-1.5)
        "weight/mean": 1.0,
    }
    for name, value in expected.items():
        assert measured[name].item() == pytest.approx(value, abs=1e-7), name


def published_script(models: Models, batch, *, beta: float):
    """The loss as the released training script computes it: [all w, all l], one forward, chunked."""
    latents = torch.cat([batch.latents[:, 0], batch.latents[:, 1]])
    noise = torch.cat([DRAWS.normal(batch.ids, batch.latents.shape[2:], "noise")] * 2).double()
    timesteps = torch.cat([(DRAWS.uniform(batch.ids, "timestep") * 1000).long()] * 2)
    embedding = torch.cat([batch.condition["embedding"][:, 0]] * 2)
    process = models.policy.process
    alpha = process.alphas_cumprod[timesteps][:, None, None, None]
    noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
    target = alpha.sqrt() * noise - (1 - alpha).sqrt() * latents  # v-prediction

    def model_losses(model):
        prediction = model(noisy, timesteps.float(), {"embedding": embedding})
        return F.mse_loss(prediction, target, reduction="none").mean(dim=[1, 2, 3]).chunk(2)

    winner, loser = model_losses(models.policy)
    with torch.no_grad():
        reference_winner, reference_loser = model_losses(models.reference)
    inside_term = -0.5 * beta * ((winner - loser) - (reference_winner - reference_loser))
    return -F.logsigmoid(inside_term).mean()


def test_the_published_script_in_float64_gives_the_same_loss_and_gradient():
    this = case(METHOD)
    this.policy = this.policy.double()
    batch = replace(
        this.batch,
        latents=this.batch.latents.double(),
        condition={"embedding": this.batch.condition["embedding"].double()},
    )
    models = this.models()
    ours = step(replace(METHOD, objective=Logistic(beta=500.0)), models, batch, DRAWS).loss
    ours.backward()
    gradient = [p.grad.clone() for p in this.policy.parameters()]
    this.policy.zero_grad()
    theirs = published_script(models, batch, beta=500.0)
    theirs.backward()
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=0)
    torch.testing.assert_close(gradient, [p.grad for p in this.policy.parameters()], rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_policy_equal_to_reference_costs_log_2_in_every_precision(dtype):
    """Both errors are reduced in float32, also where policy and reference run in half precision."""
    this = case(METHOD)
    this.policy = this.policy.to(dtype)
    models = Models(policy=this.policy, reference=copy.deepcopy(this.policy))
    out = step(METHOD, models, this.batch, DRAWS)
    assert out.measured["margin/mean"].abs().max().item() == 0
    assert out.loss.item() == pytest.approx(math.log(2), abs=1e-7)
    assert out.loss.dtype is (torch.float64 if dtype is torch.float64 else torch.float32)


def test_a_reference_in_lower_precision_is_not_the_policy():
    """Rounding of the weights alone moves the margin, and beta multiplies it by thousands."""
    this = case(METHOD)
    models = Models(policy=this.policy, reference=copy.deepcopy(this.policy).bfloat16())
    assert step(METHOD, models, this.batch, DRAWS).measured["margin/mean"].abs().max().item() > 0


def drifts(sign, *, beta=500.0, winner=0.004, loser=0.002):
    """Loss of form L2 where the policy's outputs stand off the reference's by the given squared drifts."""
    # the reference has error 0 (it gives the noise), so the policy's error is its squared drift
    models, batch, leaf = given_errors([[winner, loser]], [[0.0, 0.0]])
    out = step(method(Logistic(beta=beta), DriftFromReference(sign=sign)), models, batch, DRAWS)
    return out, leaf


def test_form_l2_with_both_signs():
    # z = +-0.5 * 500 * 0.002 = +-0.5
    assert drifts("derived_plus")[0].loss.item() == pytest.approx(0.474077, abs=1e-6)
    assert drifts("printed_minus")[0].loss.item() == pytest.approx(0.974077, abs=1e-6)


def test_form_l2_plus_rewards_moving_away_on_winners_and_minus_the_opposite():
    for sign, direction in (("derived_plus", -1), ("printed_minus", 1)):
        out, leaf = drifts(sign)
        out.loss.backward()
        assert torch.sign(leaf.grad[0]).tolist() == [direction, -direction]


@pytest.mark.parametrize("sign", ["derived_plus", "printed_minus"])
def test_form_l2_has_exactly_zero_gradient_at_the_reference(sign):
    this = case(METHOD)
    models = this.models(moved=False)
    out = step(method(Logistic(beta=500.0), DriftFromReference(sign=sign)), models, this.batch, DRAWS)
    out.loss.backward()
    assert out.loss.item() == pytest.approx(math.log(2), abs=1e-7)
    assert all((p.grad == 0).all() for p in this.policy.parameters())


def test_form_l2_is_marked_as_experimental():
    assert "sign is inconsistent" in DriftFromReference.experimental
    assert not hasattr(METHOD.ratio, "experimental")
