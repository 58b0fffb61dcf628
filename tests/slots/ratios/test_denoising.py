"""Denoising errors as log-ratios: units, sharing of noise and timestep, precision."""

import math
from dataclasses import replace

import pytest
import torch
from tests.laws.cases import PROCESS, case
from tests.slots.scripted import DRAWS, given_errors

from penchant.methods.diffusion_dpo import METHOD
from penchant.protocols import LatentBatch, Models
from penchant.randomness import Randomness
from penchant.slots.ratios.denoising import Denoising, DriftFromReference, NoisyPoint, flat_condition


def test_log_policy_is_minus_scale_times_the_error():
    models, batch, _ = given_errors([[0.10, 0.12]], [[0.11, 0.115]])
    for scale in (0.5, 1.0, 3.0):
        groups = Denoising(scale=scale)(models, batch, DRAWS)
        torch.testing.assert_close(
            groups.log_policy.detach(), -scale * torch.tensor([[0.10, 0.12]], dtype=torch.float64)
        )
        torch.testing.assert_close(
            groups.log_reference, -scale * torch.tensor([[0.11, 0.115]], dtype=torch.float64)
        )
        torch.testing.assert_close(groups.error.detach(), torch.tensor([[0.10, 0.12]]).double())


def test_the_sum_is_the_mean_times_the_number_of_elements():
    models, batch, _ = given_errors([[0.10, 0.12]], [[0.11, 0.115]])
    mean = Denoising(reduction="mean")(models, batch, DRAWS)
    total = Denoising(reduction="sum")(models, batch, DRAWS)
    torch.testing.assert_close(total.log_ratio, 8 * mean.log_ratio)
    for name in ("error", "error_reference"):  # what guards compare with their limits
        torch.testing.assert_close(getattr(total, name), getattr(mean, name))
    measured = replace(batch, reference_error=total.error_reference)
    kept = Denoising(reduction="sum")(replace(models, reference=None), measured, DRAWS)
    torch.testing.assert_close(kept.log_reference, total.log_reference)


def test_the_reference_gets_no_gradient():
    models, batch, leaf = given_errors([[0.10, 0.12]], [[0.11, 0.115]])
    batch.condition["reference"].requires_grad_()
    groups = Denoising()(models, batch, DRAWS)
    assert not groups.log_reference.requires_grad
    groups.log_ratio.sum().backward()
    torch.testing.assert_close(leaf.grad, torch.full_like(leaf, -0.5))
    assert batch.condition["reference"].grad is None


class Spy:
    """Records what the model behind it was given."""

    def __init__(self, model):
        self.model, self.process, self.calls = model, model.process, []

    def __call__(self, noisy, timestep, condition):
        self.calls.append((noisy.clone(), timestep.clone(), dict(condition)))
        return self.model(noisy, timestep, condition)


def spied(ratio, batch=None):
    this = case(METHOD)
    models = this.models()
    policy, reference = Spy(models.policy), Spy(models.reference)
    ratio(Models(policy=policy, reference=reference), batch or this.batch, DRAWS)
    return policy.calls, reference.calls, batch or this.batch


@pytest.mark.parametrize("ratio", [Denoising(), DriftFromReference()])
def test_policy_and_reference_see_the_same_inputs_bit_for_bit(ratio):
    (policy,), (reference,), _ = spied(ratio)
    assert torch.equal(policy[0], reference[0])
    assert torch.equal(policy[1], reference[1])
    assert torch.equal(policy[2]["embedding"], reference[2]["embedding"])


def noise_of(call, batch):
    noisy, timestep, _ = call
    alpha = PROCESS.alpha(timestep)[:, None, None, None]
    clean = batch.latents.flatten(0, 1).double()
    return ((noisy.double() - alpha.sqrt() * clean) / (1 - alpha).sqrt()).unflatten(
        0, batch.latents.shape[:2]
    )


def test_both_halves_of_a_pair_share_timestep_and_noise_by_default():
    (call,), _, batch = spied(Denoising())
    timestep = call[1].unflatten(0, batch.latents.shape[:2])
    assert torch.equal(timestep[:, 0], timestep[:, 1])
    assert len(set(timestep[:, 0].tolist())) > 1  # but not over the batch
    noise = noise_of(call, batch)
    torch.testing.assert_close(noise[:, 0], noise[:, 1], atol=1e-3, rtol=0)


def test_noise_can_be_drawn_for_each_candidate_while_the_timestep_stays_shared():
    (call,), _, batch = spied(Denoising(shared_noise=False))
    timestep = call[1].unflatten(0, batch.latents.shape[:2])
    assert torch.equal(timestep[:, 0], timestep[:, 1])
    noise = noise_of(call, batch)
    assert (noise[:, 0] - noise[:, 1]).abs().mean() > 0.5


def test_own_noise_is_keyed_by_candidate_so_that_padding_does_not_move_it():
    this = case(METHOD)
    wider = replace(this.batch, latents=torch.cat([this.batch.latents, this.batch.latents[:, :1]], 1))
    (two,), _, _ = spied(Denoising(shared_noise=False))
    (three,), _, _ = spied(Denoising(shared_noise=False), wider)
    assert torch.equal(two[0].unflatten(0, (6, 2)), three[0].unflatten(0, (6, 3))[:, :2])


def test_the_draws_are_keyed_by_run_epoch_example_and_purpose():
    this = case(METHOD)

    def noisy(draws, batch=this.batch):
        return NoisyPoint.draw(this.policy, batch, draws, shared_noise=True).noisy

    base = noisy(Randomness(run=1, epoch=2))
    assert torch.equal(base, noisy(Randomness(run=1, epoch=2)))
    assert not torch.equal(base, noisy(Randomness(run=1, epoch=3)))
    assert not torch.equal(base, noisy(Randomness(run=2, epoch=2)))
    renamed = replace(this.batch, ids=tuple(f"other-{name}" for name in this.batch.ids))
    assert not torch.equal(base, noisy(Randomness(run=1, epoch=2), renamed))


def test_neither_order_nor_split_of_a_batch_changes_a_draw():
    this = case(METHOD)
    whole = NoisyPoint.draw(this.policy, this.batch, DRAWS, shared_noise=True)
    for rows in ([5, 0, 3], [2], [4, 1]):
        part = replace(
            this.batch,
            ids=tuple(this.batch.ids[row] for row in rows),
            latents=this.batch.latents[rows],
            condition={"embedding": this.batch.condition["embedding"][rows]},
        )
        point = NoisyPoint.draw(this.policy, part, DRAWS, shared_noise=True)
        assert torch.equal(point.noisy.unflatten(0, (-1, 2)), whole.noisy.unflatten(0, (-1, 2))[rows])
        assert torch.equal(point.timestep.unflatten(0, (-1, 2)), whole.timestep.unflatten(0, (-1, 2))[rows])


class Halved:
    """A network that answers in bfloat16, as under mixed precision."""

    def __init__(self, model):
        self.model, self.process = model, model.process

    def __call__(self, noisy, timestep, condition):
        return self.model(noisy, timestep, condition).bfloat16()


def test_errors_of_half_precision_outputs_are_reduced_in_float32():
    this = case(METHOD)
    models = Models(policy=Halved(this.policy), reference=Halved(this.policy))
    groups = Denoising()(models, this.batch, DRAWS)
    assert groups.error.dtype is groups.error_reference.dtype is torch.float32
    assert groups.log_ratio.abs().max().item() == 0
    exact = Denoising()(Models(policy=this.policy), this.batch, DRAWS).error
    # the outputs are rounded to 8 bits, the sum over their squares is not
    torch.testing.assert_close(groups.error, exact, rtol=2**-8, atol=0)
    assert not torch.equal(groups.error, groups.error.bfloat16().float())


def test_half_precision_latents_are_noised_in_float32():
    this = case(METHOD)
    batch = replace(this.batch, latents=this.batch.latents.bfloat16())
    assert NoisyPoint.draw(this.policy, batch, DRAWS, shared_noise=True).noisy.dtype is torch.float32


def test_a_condition_is_repeated_over_candidates_in_row_order():
    shared = torch.arange(6.0).reshape(2, 1, 3)
    flat = flat_condition({"prompt": shared}, 2)["prompt"]
    assert flat.tolist() == [[0, 1, 2], [0, 1, 2], [3, 4, 5], [3, 4, 5]]
    own = torch.arange(4.0).reshape(2, 2, 1)
    assert flat_condition({"prompt": own}, 2)["prompt"].flatten().tolist() == [0, 1, 2, 3]


def test_the_noise_level_is_that_of_the_timestep():
    this = case(METHOD)
    groups = Denoising()(this.models(), this.batch, DRAWS)
    timestep = (DRAWS.uniform(this.batch.ids, "timestep").double() * 1000).long()
    torch.testing.assert_close(groups.time, timestep.float() / 1000)
    alpha = this.policy.process.alphas_cumprod[timestep]
    torch.testing.assert_close(groups.log_snr, torch.log(alpha / (1 - alpha)).float())


def test_v_error_times_abar_is_the_epsilon_error_of_the_same_network():
    """Both are read off one denoiser at the same x_t; the v-error weighs noisy steps more."""
    this = case(METHOD)
    point = NoisyPoint.draw(this.policy, this.batch, DRAWS, shared_noise=True)
    output = this.policy(point.noisy, point.timestep, point.condition)
    _, noise = this.policy.process.clean_and_noise(output, point.noisy, point.timestep)
    error_epsilon = (noise - point.noise).pow(2).flatten(1).mean(1)
    error_v = Denoising()(Models(policy=this.policy), this.batch, DRAWS).error.flatten()
    alpha = this.policy.process.alpha(point.timestep).float()
    torch.testing.assert_close(error_epsilon, alpha * error_v, rtol=1e-4, atol=1e-6)


def test_drift_is_the_squared_distance_of_the_outputs():
    models, batch, _ = given_errors([[0.004, 0.002]], [[0.0, 0.0]])
    plus = DriftFromReference()(models, batch, DRAWS)
    minus = DriftFromReference(sign="printed_minus")(models, batch, DRAWS)
    torch.testing.assert_close(plus.log_ratio, 0.5 * torch.tensor([[0.004, 0.002]]).double())
    torch.testing.assert_close(minus.log_ratio, -plus.log_ratio)
    plain = Denoising()(models, batch, DRAWS)
    torch.testing.assert_close(plus.log_policy, plain.log_policy)  # what the likelihood term reads
    torch.testing.assert_close(plus.error_reference, plain.error_reference)
    summed = DriftFromReference(reduction="sum", scale=1.0)(models, batch, DRAWS)
    torch.testing.assert_close(summed.log_ratio, 16 * plus.log_ratio)
    torch.testing.assert_close(summed.error, plus.error)
    torch.testing.assert_close(summed.error_reference, plus.error_reference)


@pytest.mark.parametrize("ratio", [Denoising, DriftFromReference])
def test_a_scale_that_is_not_positive_is_refused(ratio):
    with pytest.raises(ValueError, match="scale must be > 0, got 0"):
        ratio(scale=0.0)


def test_a_batch_of_one_candidate_per_group():
    this = case(METHOD)
    unary = LatentBatch(ids=this.batch.ids, latents=this.batch.latents[:, :1], condition=this.batch.condition)
    one = Denoising()(this.models(), unary, DRAWS)
    two = Denoising()(this.models(), this.batch, DRAWS)
    assert one.log_policy.shape == (6, 1)
    torch.testing.assert_close(one.log_policy[:, 0], two.log_policy[:, 0])
    assert not math.isnan(one.log_ratio.sum().item())
