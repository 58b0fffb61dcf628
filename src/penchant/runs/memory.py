"""What a run needs in memory: a step of it, rehearsed with tensors that have sizes and no content."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from penchant import families
from penchant.protocols import DiffusionFamily, LatentBatch
from penchant.randomness import Randomness
from penchant.runs.networks import load_family, make_trainable, models_of, optimizer_of
from penchant.runs.schema import RunFile
from penchant.shapes import Shape
from penchant.slots.compose import Method, step
from penchant.training.ema import MovingAverage
from penchant.training.live_bytes import LiveBytes
from penchant.training.quantized import quantizable


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Bytes on the device that trains, of one process without shards.

    Attributes:
        weights: Denoiser with its adapter, frozen copy and moving average.
        optimizer: Gradients and moments.
        peak: The most there is at any time, activations included; without libraries and encoded data.
    """

    weights: int
    optimizer: int
    peak: int

    @property
    def activations(self) -> int:
        """What the peak has beyond weights, gradients and moments."""
        return self.peak - self.weights - self.optimizer


def rehearsed(
    run: RunFile, method: Method, folder: Path, condition: Mapping[str, Tensor], *, where: str
) -> Memory:
    """The last micro-batch of a step, with tensors that take no memory.

    Of several, it meets the gradients of those before.

    Args:
        run: The run file; its method trains on stored data.
        method: The composition.
        folder: Where the base model lies; its weights are not read.
        condition: What the model is told of one candidate; only shapes count, and the lengths that masks say.
        where: Name of the run file, for messages.
    """
    family = load_family(run, folder, where=where, part=families.Part.NOTHING)
    training = run.training
    groups = training.micro_batch_size or training.batch_size
    reference = make_trainable(family, run, method)
    with FakeTensorMode(allow_non_fake_inputs=True), _KnownMasks():
        for network in {family.network, reference}:
            _imagine(network)
        models = models_of(run, method, family, family.network, reference)
        trained = [p for p in family.network.parameters() if p.requires_grad]
        optimizer = _optimizer(run, family.network)
        batch = imagined_batch(
            method,
            family,
            # a mask has a row of numbers for each prompt, and keeps them
            {name: value if value.ndim == 2 else _imagined(value) for name, value in condition.items()},
            groups=groups,
            size=run.data.size or family.size,
            measured=models.reference is None,
        )
        with LiveBytes() as live:
            average = None if training.ema is None else MovingAverage(family.network, decay=training.ema)
            live.count(_tensors(family.network))
            if not training.reference.offload:
                live.count(_tensors(reference))
            weights = live.now
            for parameter in trained:
                parameter.grad = torch.zeros_like(parameter)
            optimizer.step()  # moments are there from now on, as they are from the second step of a run
            if groups == training.batch_size:
                optimizer.zero_grad()  # else they are of the micro-batches before
            step(method, models, batch, Randomness(run=0)).loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            kept = live.now
            optimizer.step()
        del average
    small, few = _saved(run, family.network), _bytes_of_moments(run, trained)
    return Memory(weights=weights - small, optimizer=kept - weights + few, peak=live.peak - small + few)


def imagined_batch(
    method: Method,
    family: DiffusionFamily,
    condition: Mapping[str, Tensor],
    *,
    groups: int,
    size: int,
    measured: bool,
) -> LatentBatch:
    """Groups as long as real ones, with nothing on them.

    Args:
        method: Its shape says how many candidates a group has; those of ranked lists are taken to be 4.
        family: The model.
        condition: What it is told of one candidate, one row each.
        groups: How many.
        size: Side of the images, in pixels.
        measured: They bring the errors of their reference.
    """
    candidates = {Shape.PAIR: 2, Shape.UNARY: 1, Shape.RANKED: 4}[method.shape]
    *channels, height, width = family.sample_shape
    sides = (height * size // family.size, width * size // family.size)
    score = torch.linspace(1, 0.25, candidates).repeat(groups, 1)
    return LatentBatch(
        ids=tuple(str(number) for number in range(groups)),
        latents=torch.zeros((groups, candidates, *channels, *sides)),
        condition={name: value[None].repeat(groups, *[1] * value.ndim) for name, value in condition.items()},
        score=None if method.shape is Shape.PAIR else score,
        reference_error=torch.zeros((groups, candidates)) if measured else None,
    )


def _imagine(network: nn.Module) -> None:
    """Replace tensors without memory by fake ones, which say that they lie on the CPU."""
    for module in network.modules():
        for name, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            imagined = _imagined(tensor)
            if isinstance(tensor, nn.Parameter):
                imagined = nn.Parameter(imagined, requires_grad=tensor.requires_grad)
            setattr(module, name, imagined)


def _imagined(tensor: Tensor) -> Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype)


@final
class _KnownMasks(TorchDispatchMode):
    """Inside a rehearsal, what follows from tensors with content keeps it.

    So a mask over the tokens of a prompt selects as many as there are, where Z-Image's sizes depend on it.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not any(isinstance(argument, FakeTensor) for argument in args):
            tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
            if tensors and not any(isinstance(tensor, FakeTensor) for tensor in tensors):
                with unset_fake_temporarily():
                    return func(*args, **kwargs)
        if func is torch.ops.aten.index.Tensor:
            args = (args[0], [_positions(index) for index in args[1]])
        return func(*args, **kwargs)


def _positions(index: Tensor | None) -> Tensor | None:
    """Those that a mask with content selects; other indices as they are."""
    if index is None or isinstance(index, FakeTensor) or index.dtype is not torch.bool:
        return index
    with unset_fake_temporarily():
        return index.nonzero().squeeze(1)


def _tensors(network: nn.Module) -> Iterator[Tensor]:
    yield from network.parameters()
    yield from network.buffers()


def _optimizer(run: RunFile, network: nn.Module) -> Optimizer:
    """That of the run; others than AdamW read numbers, and are replaced by one that has no moments."""
    if run.training.optimizer != "adamw":
        return torch.optim.SGD([p for p in network.parameters() if p.requires_grad])
    return optimizer_of(run, network)


def _bytes_of_moments(run: RunFile, trained: list[nn.Parameter]) -> int:
    """Of moments that `_optimizer` left out.

    For a weight, AdamW's take 2 bytes in 8 bits, and 1 in 4 bits beside the scales of blocks of 128; those of
    small tensors stay float32, 8 bytes. Adafactor's are a row and a column for each matrix.
    """
    match run.training.optimizer:
        case "adamw":
            return 0
        case "adamw-8bit":
            return sum(p.numel() * (2 if p.numel() >= 4096 else 8) for p in trained)
        case "adamw-4bit":
            blocks = [p.numel() >= 4096 and p.numel() % 128 == 0 for p in trained]
            sizes = [1 + 8 / 128 if divided else 8 for divided in blocks]
            return round(sum(p.numel() * size for p, size in zip(trained, sizes, strict=True)))
        case "adafactor":
            return sum(4 * sum(p.numel() // side for side in p.shape[-2:]) for p in trained)


def _saved(run: RunFile, network: nn.Module) -> int:
    """Bytes that quantized layers take less; they are rehearsed whole."""
    if run.training.quantized is None:
        return 0
    kept = {"int8": 1.0, "nf4": 0.5 + 4 / 64}[run.training.quantized]  # of an element, scales included
    weights = [layer.weight for layer in quantizable(network).values()]
    return round(sum(w.numel() * (w.element_size() - kept) for w in weights))
