"""Forward and backward of attention on the CPU, by kernel and number of tokens; prints a table.

python benchmarks/attention.py
"""

import time

import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

SHAPES = {
    "16, `emoji` within its images": (32, 4, 16, 16, 56),
    "16 to 20, `emoji` to its prompts": (32, 4, 16, 20, 56),
    "64": (32, 4, 64, 64, 48),
    "256": (4, 8, 256, 256, 40),
    "1,024": (2, 8, 1024, 1024, 80),
    "4,096, SD 1.5 at 512 px": (2, 8, 4096, 4096, 40),
}
"""Images, heads, tokens, tokens that are attended to, width of a head."""
KERNELS = {
    "fused, float32": (SDPBackend.FLASH_ATTENTION, torch.float32),
    "fused, bfloat16": (SDPBackend.FLASH_ATTENTION, torch.bfloat16),
    "products, bfloat16": (SDPBackend.MATH, torch.bfloat16),
}
ROUNDS = 5


def milliseconds(shape: tuple[int, ...], kernel: SDPBackend, dtype: torch.dtype) -> float:
    """The fastest of some rounds."""
    images, heads, tokens, attended, width = shape
    query, key, value = (
        torch.randn(images, heads, length, width, dtype=dtype, requires_grad=True)
        for length in (tokens, attended, attended)
    )
    times = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        with sdpa_kernel(kernel):
            output = F.scaled_dot_product_attention(query, key, value)
        output.backward(torch.ones_like(output))
        times.append(time.perf_counter() - started)
    return 1000 * min(times)


def main() -> None:
    """Print the table."""
    print("| tokens | " + " | ".join(KERNELS) + " |\n|---" + "|---" * len(KERNELS) + "|")
    for name, shape in SHAPES.items():
        times = [f"{milliseconds(shape, *kernel):.1f} ms" for kernel in KERNELS.values()]
        print(f"| {name} | " + " | ".join(times) + " |", flush=True)


if __name__ == "__main__":
    main()
