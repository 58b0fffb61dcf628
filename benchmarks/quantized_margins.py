"""What fewer bits for the frozen weights do to the margin, on the shipped model and pairs.

The policy is the model with an adapter of random weights, so that margins are not 0; pairs, noise and latents
are the same in every row.

    python benchmarks/quantized_margins.py
"""

import torch
from torch import Tensor

from penchant import families
from penchant.runs.assemble import assemble
from penchant.runs.load import check

BATCHES, PAIRS, SCALE = 4, 64, 0.02

WAYS = {
    "float32": {},
    "bfloat16": {"precision": "bfloat16"},
    "int8": {"precision": "bfloat16", "quantized": "int8"},
    "nf4": {"precision": "bfloat16", "quantized": "nf4"},
}


@torch.no_grad()
def margins(training: dict[str, str]) -> tuple[Tensor, int]:
    """Margins of all pairs, and bytes of the denoiser."""
    raw = {
        "model": "emoji",
        "data": {"path": "emoji-pairs", "heldout_split": None},
        "method": "diffusion-dpo",
        "objective": {"beta": 1},
        "training": {"steps": BATCHES, "batch_size": PAIRS, **training},
        "output": "unused",
    }
    parts = assemble(check(raw, where="benchmark"), where="benchmark")
    generator = torch.Generator().manual_seed(0)
    for name, parameter in parts.bare.named_parameters():
        if "lora_B" in name:
            parameter.data = SCALE * torch.randn(parameter.shape, generator=generator)
    found = []
    for number in range(BATCHES):
        batch = parts.sources.train(number)
        for piece in batch.micro:
            ratio = parts.method.ratio(parts.models, piece, batch.draws).log_ratio
            found.append(ratio[:, 0] - ratio[:, 1])
    return torch.cat(found), sum(p.numel() * p.element_size() for p in parts.bare.parameters())


def main() -> None:
    """Print one row per way."""
    families.quiet()
    exact, whole = margins(WAYS["float32"])
    print(f"{len(exact)} margins, mean size {exact.abs().mean():.3g}")
    print("| frozen weights | bytes | margin: mean change | largest | correlation | same sign |")
    print("|---|---|---|---|---|---|")
    for name, training in WAYS.items():
        found, size = margins(training)
        gap = (found - exact).abs() / exact.abs().mean()
        together = torch.corrcoef(torch.stack([found, exact]))[0, 1]
        agreed = (found.sign() == exact.sign()).float().mean()
        print(
            f"| {name} | {size / whole:.2f} | {gap.mean():.1e} | {gap.max():.1e} | {together:.4f} "
            f"| {agreed:.1%} |"
        )


if __name__ == "__main__":
    main()
