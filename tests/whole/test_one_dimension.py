"""The one-dimensional example: its target by quadrature, and a diffusion model on the way there."""

import importlib.util
import math
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "docs/figures/one_dimension.py"


@pytest.fixture(scope="module")
def line():
    spec = importlib.util.spec_from_file_location("one_dimension", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def target(line):
    return line.Target.at(0.1)


def share(target, low, high):
    inside = (target.grid > low - 1e-9) & (target.grid < high + 1e-9)
    return torch.trapezoid(target.density[inside], target.grid[inside]).item()


def test_normaliser_and_moments(target):
    """Numbers of a computation with 30 digits, in the project's notes."""
    assert target.z == pytest.approx(6.7560166932, abs=1e-8)
    mean = target.mean_of(target.grid)
    assert mean == pytest.approx(1.2270755995, abs=1e-7)
    centred = target.grid - mean
    variance = target.mean_of(centred**2)
    assert variance == pytest.approx(0.6987131384, abs=1e-7)
    assert target.mean_of(centred**3) / variance**1.5 == pytest.approx(-1.2153776520, abs=1e-6)
    assert target.mean_of(centred**4) / variance**2 - 3 == pytest.approx(2.0829909060, abs=1e-5)


def test_mode_and_peak(line, target):
    top = target.density.argmax()
    assert target.grid[top].item() == pytest.approx(1.5684773795, abs=0.005)
    assert target.density[top].item() == pytest.approx(0.6539781037, abs=1e-4)
    mode = torch.tensor(1.5684773795, dtype=torch.float64)  # x = (2 - x) r(x) / beta
    assert ((2 - mode) * line.reward(mode) / 0.1).item() == pytest.approx(mode.item(), abs=1e-9)


def test_the_identity_of_the_optimum(line, target):
    """E[r] - beta KL(target, reference) = beta log Z."""
    base = line.base_density(target.grid)
    log_ratio = (target.density / base).log()
    gain = target.mean_of(line.reward(target.grid))
    divergence = target.mean_of(log_ratio)
    assert gain == pytest.approx(0.2809905654, abs=1e-8)
    assert divergence == pytest.approx(0.8994721839, abs=1e-7)
    assert gain - 0.1 * divergence == pytest.approx(0.1 * math.log(target.z), abs=1e-9)
    assert 0.1 * math.log(target.z) == pytest.approx(0.1910433470, abs=1e-8)
    assert -torch.trapezoid(base * log_ratio, target.grid).item() == pytest.approx(0.8726647260, abs=1e-6)
    at_rest = torch.trapezoid(base * line.reward(target.grid), target.grid).item()
    assert at_rest == pytest.approx(math.exp(-1) / math.sqrt(4 * math.pi), abs=1e-8)


def test_crossings_and_shares(line, target):
    for crossing in (0.7864791754, 3.2135208247):
        at = torch.tensor(crossing, dtype=torch.float64)
        assert line.reward(at).item() == pytest.approx(0.1 * math.log(target.z), abs=1e-8)
    assert share(target, -6, 0) == pytest.approx(0.0882270214, abs=1e-5)
    assert share(target, -6, 1) == pytest.approx(0.2995036560, abs=1e-5)
    assert share(target, 1, 3) == pytest.approx(0.6991500620, abs=1e-5)


@pytest.mark.parametrize(("beta", "z", "mean"), [(1.0, 1.1171704, 0.1090786), (0.05, 181.8780966, 1.7071312)])
def test_other_strengths(line, beta, z, mean):
    other = line.Target.at(beta)
    assert other.z == pytest.approx(z, rel=1e-6)
    assert other.mean_of(other.grid) == pytest.approx(mean, abs=1e-6)


def test_diffusion_dpo_moves_a_diffusion_model_towards_the_target(line, target):
    base = line.pretrained(steps=150)
    policy = line.tuned(base, beta=5.0, steps=80, rows=128, lr=2e-3)
    before, after = line.samples(base, 4000), line.samples(policy, 4000)
    assert abs(before.mean().item()) < 0.15 and abs(before.std().item() - 1) < 0.15
    assert after.mean().item() > before.mean().item() + 0.3
    assert line.reward(after).mean().item() > line.reward(before).mean().item() + 0.03
    assert line.total_variation(after, target) < line.total_variation(before, target) - 0.1
