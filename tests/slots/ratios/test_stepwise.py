"""Densities of sampled steps, with and without guidance."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from tests.laws.cases import PROCESS, TinyDenoiser, case
from tests.slots.scripted import DRAWS

from penchant.diffusion.samplers import DDIM
from penchant.methods.d3po import METHOD
from penchant.protocols import Models
from penchant.slots.ratios.stepwise import Stepwise


def test_the_density_written_out_for_a_guided_v_network():
    this = case(METHOD)
    this.policy = this.policy.double()
    batch = replace(
        this.batch,
        state=this.batch.state.double(),
        action=this.batch.action.double(),
        condition={"embedding": this.batch.condition["embedding"].double()},
        unconditional={"embedding": this.batch.unconditional["embedding"].double()},
    )
    groups = Stepwise(sampler=DDIM(guidance=3.0, eta=0.7))(this.models(), batch, DRAWS)
    for row in range(6):
        a, b = PROCESS.alphas_cumprod[batch.timestep[row]], PROCESS.alphas_cumprod[batch.next_timestep[row]]
        for column in range(2):
            x = batch.state[row, column][None]

            def v(condition, x=x, row=row):
                return this.policy(
                    x, batch.timestep[row : row + 1], {"embedding": condition["embedding"][row]}
                )

            guided = v(batch.unconditional) + 3 * (v(batch.condition) - v(batch.unconditional))
            clean, noise = a.sqrt() * x - (1 - a).sqrt() * guided, a.sqrt() * guided + (1 - a).sqrt() * x
            sigma = 0.7 * ((1 - b) / (1 - a) * (1 - a / b)).sqrt()
            mean = b.sqrt() * clean + (1 - b - sigma**2).sqrt() * noise
            expected = (
                torch.distributions.Normal(mean, sigma).log_prob(batch.action[row, column][None]).mean()
            )
            torch.testing.assert_close(groups.log_policy[row, column], expected, rtol=1e-9, atol=1e-9)


def test_without_a_reference_there_is_none():
    this = case(METHOD)
    groups = Stepwise()(Models(policy=this.policy), this.batch, DRAWS)
    assert groups.log_reference is None


def test_a_policy_that_predicts_the_taken_step_better_has_the_higher_density():
    this = case(METHOD)
    before = Stepwise()(this.models(moved=False), this.batch, DRAWS)
    learner = copy.deepcopy(this.policy)
    optimizer = torch.optim.Adam(learner.parameters(), lr=1e-2)
    for _ in range(5):
        optimizer.zero_grad()
        groups = Stepwise()(Models(policy=learner), this.batch, DRAWS)
        (-groups.log_policy.mean()).backward()
        optimizer.step()
    after = Stepwise()(Models(policy=learner, reference=this.policy), this.batch, DRAWS)
    assert after.log_ratio.mean() > 0
    assert before.log_ratio.abs().max().item() == 0


def test_guidance_1_takes_one_forward_of_single_size():
    sizes = []

    class Counting(TinyDenoiser):
        def forward(self, noisy, timestep, condition):
            sizes.append(len(noisy))
            return super().forward(noisy, timestep, condition)

    this, policy = case(METHOD), Counting()
    Stepwise(sampler=DDIM(guidance=1.0))(Models(policy=policy), this.batch, DRAWS)
    Stepwise(sampler=DDIM(guidance=5.0))(Models(policy=policy), this.batch, DRAWS)
    assert sizes == [12, 24]


def test_noise_level_and_time_are_those_of_the_state():
    this = case(METHOD)
    groups = Stepwise()(this.models(), this.batch, DRAWS)
    torch.testing.assert_close(groups.time, this.batch.timestep / 1000)
    alpha = PROCESS.alphas_cumprod[this.batch.timestep[0]].item()
    assert groups.log_snr[0].item() == pytest.approx(math.log(alpha / (1 - alpha)), rel=1e-6)
