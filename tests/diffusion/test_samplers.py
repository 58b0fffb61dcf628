"""DDIM steps and their densities against worked numbers and an independent normal density."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.slots.scripted import SD_ALPHAS

from penchant.diffusion.samplers import DDIM, Transition
from penchant.diffusion.schedule import VariancePreserving

SD = VariancePreserving(alphas_cumprod=SD_ALPHAS, prediction="epsilon")


def f64(value):
    return torch.tensor([[value]], dtype=torch.float64)


def transition(output=-0.25, state=0.5, step=(481, 431), **options):
    return DDIM(**options).transition(
        SD, f64(output), f64(state), torch.tensor([step[0]]), torch.tensor([step[1]])
    )


def test_the_worked_step():
    step = transition()
    assert step.deviation.item() == pytest.approx(0.4182865, abs=1e-7)
    clean, _ = SD.clean_and_noise(f64(-0.25), f64(0.5), torch.tensor([481]))
    assert clean.item() == pytest.approx(1.2892023, abs=1e-7)
    assert step.mean.item() == pytest.approx(0.6227323, abs=1e-7)
    assert step.log_density(f64(0.9)).item() == pytest.approx(-0.2670452, abs=1e-7)


def test_the_last_step_uses_the_first_alpha_and_keeps_a_density():
    assert transition(step=(1, 0)).deviation.item() == pytest.approx(0.020648, abs=1e-6)


def test_the_published_timesteps():
    assert DDIM(num_steps=20).timesteps(1000)[:2] == [(951, 901), (901, 851)]
    assert DDIM(num_steps=20).timesteps(1000)[-2:] == [(51, 1), (1, 0)]
    assert len(DDIM(num_steps=20).timesteps(1000)) == 20
    assert DDIM(num_steps=50).timesteps(1000)[:2] == [(981, 961), (961, 941)]


@pytest.mark.parametrize("num_steps", [1, 3, 7, 20, 50, 333, 500, 999])
def test_the_steps_go_down_and_meet(num_steps):
    steps = DDIM(num_steps=num_steps).timesteps(1000)
    assert len(steps) == num_steps
    assert all(0 <= after < before < 1000 for before, after in steps)
    assert all(steps[i][1] == steps[i + 1][0] for i in range(num_steps - 1))


@pytest.mark.parametrize("num_steps", [1000, 2000])
def test_more_steps_than_the_schedule_has_room_for_are_refused(num_steps):
    with pytest.raises(ValueError, match="num_steps must be < 1000, the number of timesteps"):
        DDIM(num_steps=num_steps).timesteps(1000)


@given(st.floats(-2, 2), st.floats(-2, 2), st.floats(-2, 2), st.floats(0.1, 1.0))
def test_the_density_is_a_normal_one(output, state, action, eta):
    step = transition(output, state, eta=eta)
    expected = torch.distributions.Normal(step.mean, step.deviation).log_prob(f64(action))
    assert step.log_density(f64(action)).item() == pytest.approx(expected.item(), rel=1e-9)


def test_the_log_density_is_a_mean_over_elements_and_not_a_sum():
    step = Transition(mean=torch.zeros((1, 2, 2)), deviation=torch.tensor([1.0]))
    assert step.log_density(torch.ones((1, 2, 2))).item() == pytest.approx(-0.5 - 0.5 * math.log(2 * math.pi))


def test_the_mean_of_the_density_is_its_top_and_gets_the_gradient():
    mean = f64(0.3).requires_grad_()
    step = Transition(mean=mean, deviation=torch.tensor([0.5], dtype=torch.float64))
    action = f64(0.8).requires_grad_()
    step.log_density(action).sum().backward()
    assert mean.grad.item() == pytest.approx((0.8 - 0.3) / 0.25)
    assert action.grad is None  # a stored action is data


def test_full_ancestral_noise_gives_the_posterior_of_the_forward_process():
    """At eta 1, DDIM is q(x_t' | x_t, x0): its mean and variance follow from Bayes' rule."""
    a, b = SD_ALPHAS[481].item(), SD_ALPHAS[431].item()
    ratio = a / b  # x_t = sqrt(ratio) x_t' + sqrt(1 - ratio) n
    clean, noise = 0.7, -0.4
    state = math.sqrt(a) * clean + math.sqrt(1 - a) * noise
    precision = 1 / (1 - b) + ratio / (1 - ratio)
    mean = (math.sqrt(b) * clean / (1 - b) + math.sqrt(ratio) * state / (1 - ratio)) / precision
    step = transition(noise, state)
    assert step.mean.item() == pytest.approx(mean, abs=1e-9)
    assert step.deviation.item() == pytest.approx(math.sqrt(1 / precision), abs=1e-9)


def test_a_sample_is_mean_plus_deviation_times_noise():
    step = transition()
    assert step.sample(f64(2.0)).item() == pytest.approx(0.6227323 + 2 * 0.4182865, abs=1e-6)


def test_densities_are_at_least_float32():
    step = DDIM().transition(
        SD,
        torch.zeros((1, 1), dtype=torch.bfloat16),
        torch.ones((1, 1), dtype=torch.bfloat16),
        torch.tensor([481]),
        torch.tensor([431]),
    )
    assert step.log_density(torch.ones((1, 1), dtype=torch.bfloat16)).dtype is torch.float32


class Function:
    """A function as a denoiser."""

    process = SD

    def __init__(self, function):
        self.function = function

    def __call__(self, noisy, timestep, condition):
        return self.function(noisy, condition["shift"])


def test_guidance_moves_from_the_unguided_output_through_the_guided_one():
    denoiser = Function(lambda noisy, shift: noisy + shift)
    state, timestep = torch.ones((1, 1)), torch.tensor([481])
    condition, unconditional = {"shift": torch.tensor([[2.0]])}, {"shift": torch.tensor([[0.5]])}
    guided = DDIM(guidance=5.0).predict(denoiser, state, timestep, condition, unconditional)
    assert guided.item() == pytest.approx(1.5 + 5 * (3.0 - 1.5))
    assert DDIM(guidance=1.0).predict(denoiser, state, timestep, condition, unconditional).item() == 3.0
    assert DDIM(guidance=0.0).predict(denoiser, state, timestep, condition, unconditional).item() == 1.5


def test_both_halves_of_the_guidance_are_differentiated():
    weight = torch.tensor(1.0, requires_grad=True)
    DDIM(guidance=5.0).predict(
        Function(lambda noisy, shift: weight * shift),
        torch.ones((1, 1)),
        torch.tensor([1]),
        {"shift": torch.tensor([[2.0]])},
        {"shift": torch.tensor([[0.5]])},
    ).sum().backward()
    assert weight.grad.item() == pytest.approx(5 * 2.0 - 4 * 0.5)


@pytest.mark.parametrize(
    ("options", "sentence"), [({"num_steps": 0}, "num_steps must be >= 1"), ({"eta": 0.0}, "eta must be > 0")]
)
def test_options_out_of_range_are_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        DDIM(**options)
