"""Random numbers keyed by what they are for, not by when they are drawn."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Generator, Tensor


@final
@dataclass(frozen=True, slots=True)
class Randomness:
    """Draws that depend on run seed, epoch, example and purpose alone.

    Neither the order of a batch, nor its split into micro-batches, nor the number of processes can change a
    draw. All draws are made on the CPU in float32, so that they are the same on every device.

    Attributes:
        run: Seed of the run.
        epoch: Pass over the data, or round of sampling; >= 0.
    """

    run: int
    epoch: int = 0

    def generator(self, example: str, purpose: str) -> Generator:
        """The generator that belongs to one example and purpose."""
        key = f"{self.run}/{self.epoch}/{example}/{purpose}".encode()
        number = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little") >> 1
        return Generator().manual_seed(number)

    def normal(self, examples: Sequence[str], shape: Sequence[int], purpose: str) -> Float[Tensor, " N *D"]:
        """Standard normal, one block of the given shape per example, stacked."""
        return torch.stack(
            [torch.randn(tuple(shape), generator=self.generator(e, purpose)) for e in examples]
        )

    def uniform(self, examples: Sequence[str], purpose: str) -> Float[Tensor, " N"]:
        """One number in [0, 1) per example."""
        return torch.stack([torch.rand((), generator=self.generator(e, purpose)) for e in examples])

    def permutation(self, size: int, purpose: str) -> list[int]:
        """A random order of `size` items."""
        return torch.randperm(size, generator=self.generator("", purpose)).tolist()
