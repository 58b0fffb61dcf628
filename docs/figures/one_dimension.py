"""The one-dimensional example of the concept page: everything is computed, nothing is drawn by hand.

Reference p = N(0, 1), reward r(x) = density of N(2, 1), beta = 0.1; target p(x) exp(r(x) / beta) / Z.

    python docs/figures/one_dimension.py docs/images     # one-dimension.svg and .png

Axes: N samples, one element each.
"""

import copy
import math
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from penchant.diffusion.schedule import VariancePreserving, scaled_linear_alphas
from penchant.methods import catalog
from penchant.protocols import LatentBatch, Models
from penchant.randomness import Randomness
from penchant.slots.compose import step
from penchant.slots.objectives.pairwise import Logistic

BETA = 0.1
SHOWN = (20.0, 5.0, 1.0)  # betas of Diffusion-DPO, on the mean error with the 1/2
STEPS = 100  # of the noise schedule; abar ends at 1e-4
PROCESS = VariancePreserving(
    alphas_cumprod=scaled_linear_alphas(STEPS, 0.001, 0.25), prediction="v_prediction"
)


def reward(x: Tensor) -> Tensor:
    """Density of N(2, 1)."""
    return torch.exp(-0.5 * (x - 2) ** 2) / math.sqrt(2 * math.pi)


def base_density(x: Tensor) -> Tensor:
    """Density of N(0, 1)."""
    return torch.exp(-0.5 * x**2) / math.sqrt(2 * math.pi)


@dataclass(frozen=True)
class Target:
    """p exp(r / beta) / Z on a grid, by the trapezoid rule."""

    grid: Tensor
    density: Tensor
    z: float

    @classmethod
    def at(cls, beta: float) -> "Target":
        grid = torch.arange(-6, 8.005, 0.01, dtype=torch.float64)
        unnormalised = base_density(grid) * torch.exp(reward(grid) / beta)
        z = torch.trapezoid(unnormalised, grid).item()
        return cls(grid, unnormalised / z, z)

    def mean_of(self, values: Tensor) -> float:
        """Expectation of values on the grid under the target."""
        return torch.trapezoid(self.density * values, self.grid).item()


class Denoiser(nn.Module):
    """A small network that predicts v on the line."""

    process = PROCESS

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(6, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 1)
        )

    def forward(self, noisy, timestep, condition):
        t = timestep[:, None] / STEPS
        features = [noisy, t, t**2, torch.sin(math.pi * t), torch.cos(math.pi * t), noisy * (1 - t)]
        return self.layers(torch.cat(features, 1))


def pretrained(seed: int = 0, steps: int = 300) -> Denoiser:
    """A denoiser trained on samples of p by its usual loss."""
    torch.manual_seed(seed)
    model = Denoiser()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        clean, noise = torch.randn(256, 1), torch.randn(256, 1)
        timestep = torch.randint(0, STEPS, (256,))
        output = model(PROCESS.noised(clean, noise, timestep), timestep, {})
        loss = (output - PROCESS.target(clean, noise, timestep)).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model


@torch.no_grad()
def samples(model: Denoiser, count: int, seed: int = 1) -> Tensor:
    """Ancestral samples over all steps of the schedule; [N]."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn((count, 1), generator=generator)
    alphas = [*PROCESS.alphas_cumprod.tolist()]
    for t in reversed(range(STEPS)):
        timestep = torch.full((count,), t)
        clean, noise = PROCESS.clean_and_noise(model(x, timestep, {}), x, timestep)
        if t == 0:
            return clean[:, 0]
        a, b = alphas[t], alphas[t - 1]
        sigma = math.sqrt((1 - b) / (1 - a) * (1 - a / b))
        x = math.sqrt(b) * clean + math.sqrt(1 - b - sigma**2) * noise
        x = x + sigma * torch.randn((count, 1), generator=generator)
    raise AssertionError("unreachable")


def preferences(candidates: Tensor, count: int, seed: int) -> LatentBatch:
    """Pairs of candidates; x beats x' with probability sigmoid((r(x) - r(x')) / BETA).

    So the target of exact DPO with beta 1 on these pairs is p exp(r / BETA) / Z.
    """
    generator = torch.Generator().manual_seed(seed)
    pairs = candidates[torch.randint(0, len(candidates), (count, 2), generator=generator)]
    first_wins = torch.sigmoid((reward(pairs[:, 0]) - reward(pairs[:, 1])) / BETA)
    swap = torch.rand(count, generator=generator) > first_wins
    pairs[swap] = pairs[swap].flip(1)
    ids = tuple(f"pair-{index}" for index in range(count))
    return LatentBatch(ids=ids, latents=pairs[:, :, None], condition={})


def tuned(base: Denoiser, *, beta: float, steps: int = 300, rows: int = 256, lr: float = 1e-3) -> Denoiser:
    """Diffusion-DPO from the base model on preferences among its own kind of samples (draws of p)."""
    policy = copy.deepcopy(base).requires_grad_(True)
    models = Models(policy=policy, reference=base.requires_grad_(False))
    method = replace(catalog.get("diffusion-dpo"), objective=Logistic(beta=beta))
    optimizer = torch.optim.Adam(policy.parameters(), lr=lr)
    candidates = torch.randn(20_000, generator=torch.Generator().manual_seed(3))
    for index in range(steps):
        batch = preferences(candidates, rows, seed=100 + index)
        loss = step(method, models, batch, Randomness(run=0, epoch=index)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return policy


def histogram(x: Tensor, width: float = 0.1) -> tuple[Tensor, Tensor]:
    """Centres and densities of bins on [-6, 8]."""
    edges = torch.arange(-6, 8 + width / 2, width, dtype=torch.float64)
    counts = torch.histogram(x.double(), edges).hist
    return (edges[1:] + edges[:-1]) / 2, counts / (len(x) * width)


def total_variation(x: Tensor, target: Target, width: float = 0.1) -> float:
    """Half the summed distance of sample and target over bins."""
    centres, density = histogram(x, width)
    nearest = torch.searchsorted(target.grid, centres).clamp(max=len(target.grid) - 1)
    return 0.5 * width * (density - target.density[nearest]).abs().sum().item()


def draw(folder: Path) -> None:
    """Compute everything, print the numbers, write the figure."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    matplotlib.rcParams["svg.hashsalt"] = "penchant"
    target = Target.at(BETA)
    base = pretrained()
    models = {"base": base} | {f"beta {beta:g}": tuned(base, beta=beta) for beta in SHOWN}
    drawn = {name: samples(model, 20_000) for name, model in models.items()}
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), sharey=True, layout="constrained")
    grid, grey, red = target.grid, "#777777", "#c0392b"
    mode = grid[target.density.argmax()].item()
    left.plot(grid, base_density(grid), color=grey, label="reference N(0, 1)")
    left.plot(grid, reward(grid), color="#2980b9", ls="--", label="reward: density of N(2, 1)")
    left.plot(grid, target.density, color=red, lw=2, label="target p exp(r / 0.1) / Z")
    left.fill_between(grid, target.density, base_density(grid), color=red, alpha=0.12)
    left.axvline(mode, color=red, lw=0.8, ls=":")
    mean = target.mean_of(grid)
    left.set_title(f"The leashed optimum: Z {target.z:.3f}, mean {mean:.3f}, mode {mode:.2f}", fontsize=10)
    right.plot(grid, target.density, color=red, lw=2, label=f"target: mean {mean:.2f}")
    colours = [grey, "#27ae60", "#e67e22", "#8e44ad"]
    for (name, x), colour in zip(drawn.items(), colours, strict=False):
        tv, gain = total_variation(x, target), reward(x).mean().item()
        label = f"{name}: mean {x.mean().item():.2f}, total variation {tv:.2f}"
        right.plot(*histogram(x, 0.2), color=colour, lw=1.4, label=label)
        numbers = f"mean {x.mean().item():.3f} sd {x.std().item():.3f} reward {gain:.4f} tv {tv:.4f}"
        print(f"{name:10s} {numbers}")
    print(f"target     mean {mean:.3f} reward {target.mean_of(reward(grid)):.4f} Z {target.z:.6f}")
    right.set_title("A diffusion model tuned by Diffusion-DPO (20,000 samples)", fontsize=10)
    for axes in (left, right):
        axes.set(xlim=(-4, 5), ylim=(0, 0.82), xlabel="x")
        axes.legend(frameon=False, fontsize=8, loc="upper left")
        axes.spines[["top", "right"]].set_visible(False)
    left.set_ylabel("density")
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / "one-dimension.svg", metadata={"Date": None})
    figure.savefig(folder / "one-dimension.png", dpi=110)


if __name__ == "__main__":
    draw(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("docs/images"))
