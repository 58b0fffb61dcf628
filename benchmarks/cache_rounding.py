"""What half precision in the latent cache does to the margin, on the shipped model and pairs.

The policy is the model with an adapter of random weights, so that margins are not 0. Timestep, noise and
latent draw are the same in every row; the last row redraws the latents, as each epoch does.

    python benchmarks/cache_rounding.py
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from penchant import families
from penchant.data import store
from penchant.protocols import Models
from penchant.randomness import Randomness
from penchant.runs.assemble import SHIPPED_DATA
from penchant.shapes import Shape
from penchant.slots.ratios.denoising import Denoising
from penchant.training.adapters import add_lora
from penchant.training.encode import Preparation, encode, groups_of
from penchant.training.reference import SwitchedReference
from penchant.training.source import EncodedExamples
from penchant.training.table import Table

GROUPS, EPOCHS, SCALE = 64, 4, 0.02


def stored(table: Table, dtype: torch.dtype) -> Table:
    """The table as it comes back from a cache of that type."""
    shards = [{name: value.to(dtype).float() for name, value in shard.items()} for shard in table.shards]
    return Table(shards, table.places)


def main() -> None:
    """Print one row per type."""
    family = families.load("emoji")
    data = store.read(SHIPPED_DATA["emoji-pairs"], split="train", where="emoji-pairs")
    groups = groups_of(data, Shape.PAIR, where="emoji-pairs")[:GROUPS]
    examples = encode(groups, family, Preparation(sizes=((family.size, family.size),)))
    add_lora(family.network, rank=16, alpha=16, targets=family.lora_targets, seed=0)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in family.network.named_parameters():
        if "lora_B" in name:
            parameter.data = SCALE * torch.randn(parameter.shape, generator=generator)
    policy = family.denoiser(family.network)
    models = Models(policy=policy, reference=SwitchedReference(denoiser=policy, network=family.network))

    @torch.no_grad()
    def margins(found: EncodedExamples, latent_epoch: Callable[[int], int] = lambda epoch: epoch) -> Tensor:
        rows = []
        for epoch in range(EPOCHS):
            batch = found.batch(range(GROUPS), Randomness(run=0, epoch=latent_epoch(epoch)))
            log_ratio = Denoising()(models, batch, Randomness(run=0, epoch=epoch)).log_ratio
            rows.append(log_ratio[:, 0] - log_ratio[:, 1])
        return torch.cat(rows)

    exact = margins(examples)
    print(f"margin: mean size {exact.abs().mean():.3g}, {len(exact)} of them")
    print(f"deviation of the posterior: mean {examples.latents.shards[0]['deviation'].mean():.3g}")
    print("| kept as | latents: mean change | largest | prompts: mean change | largest |")
    print("|---|---|---|---|---|")
    for name in ("float16", "bfloat16"):
        dtype = getattr(torch, name)
        cells = []
        for changed in (
            replace(examples, latents=stored(examples.latents, dtype)),
            replace(examples, conditions=stored(examples.conditions, dtype)),
        ):
            gap = (margins(changed) - exact).abs() / exact.abs().mean()
            cells += [f"{gap.mean():.1e}", f"{gap.max():.1e}"]
        print(f"| {name} | {' | '.join(cells)} |")
    gap = (margins(examples, lambda epoch: epoch + EPOCHS) - exact).abs() / exact.abs().mean()
    print(f"| float32, latents redrawn | {gap.mean():.1e} | {gap.max():.1e} | - | - |")


if __name__ == "__main__":
    main()
