"""What each optimizer costs: seconds of a step and bytes of state for all weights of the emoji model.

All of them in turns in one process; the median counts. A first step makes the state and, in 4 bits, compiles
kernels, which takes longest when PyTorch's cache of them is empty: here it is.
"""

import argparse
import os
import statistics
import tempfile
import time

NAMES = ("adamw", "adamw-8bit", "adamw-4bit", "adafactor")


def main() -> None:
    """Step all of them in turns, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20, help="steps of each optimizer after the first")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache  # read when torch is imported
        measure(options.rounds)


def measure(rounds: int) -> None:
    """The table, in this process."""
    import torch

    from penchant import families
    from penchant.training.four_bit import unpacked
    from penchant.training.optim import build_optimizer

    families.quiet()
    network = families.load_folder(families.resolve("emoji"), part=families.Part.DENOISER).network
    weights = [torch.nn.Parameter(weight.detach().float()) for weight in network.parameters()]
    for weight in weights:
        weight.grad = torch.randn_like(weight)
    first, later, optimizers = {}, {name: [] for name in NAMES}, {}
    for name in NAMES:
        started = time.perf_counter()
        optimizers[name] = build_optimizer(
            weights, name=name, learning_rate=1e-6, betas=(0.9, 0.999), weight_decay=0, epsilon=1e-8
        )
        optimizers[name].step()
        first[name] = time.perf_counter() - started
    for _ in range(rounds):
        for name, optimizer in optimizers.items():
            started = time.perf_counter()
            optimizer.step()
            later[name].append(time.perf_counter() - started)
    print(f"{sum(weight.numel() for weight in weights):,} weights in {len(weights)} tensors\n")
    print("| optimizer | state, bytes per weight | first step | a step | of adamw's |")
    print("|---|---|---|---|---|")
    plain = statistics.median(later["adamw"])
    for name, optimizer in optimizers.items():
        storages = {
            part.untyped_storage().data_ptr(): part.untyped_storage().nbytes()
            for state in optimizer.state.values()
            for value in state.values()
            for part in unpacked(torch.as_tensor(value)).values()
        }
        per_weight = sum(storages.values()) / sum(weight.numel() for weight in weights)
        step = statistics.median(later[name])
        print(f"| `{name}` | {per_weight:.2f} | {first[name]:.1f} s | {step:.3f} s | {step / plain:.0f} |")


if __name__ == "__main__":
    main()
