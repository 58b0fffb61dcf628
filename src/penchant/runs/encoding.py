"""From a run file to encoded examples: text encoders and autoencoder are loaded, used and freed in turn."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from accelerate import Accelerator

from penchant.data.buckets import Size, bucket_sizes
from penchant.data.dataset import Dataset, require_usable
from penchant.errors import ConfigError
from penchant.families import Part
from penchant.protocols import DiffusionFamily
from penchant.randomness import Randomness
from penchant.runs.caches import encoding_rows
from penchant.runs.data import data_of, rules_of
from penchant.runs.networks import load_family
from penchant.runs.schema import RunFile
from penchant.runs.terminal import Phase
from penchant.slots.compose import Method
from penchant.training.encode import Group, Preparation, encode_images, encode_texts, groups_of, joined
from penchant.training.source import EncodedExamples, require_a_batch


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOutGroups:
    """What is measured during the training.

    Attributes:
        examples: Encoded groups.
        rows: Which of them.
        draws: At which random draws.
    """

    examples: EncodedExamples
    rows: Sequence[int]
    draws: Sequence[Randomness]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """Stored data after the encoders.

    Attributes:
        train: Groups of the training split.
        heldout: Held-out groups; None without any.
    """

    train: EncodedExamples
    heldout: HeldOutGroups | None


def encode_stored(
    run: RunFile,
    method: Method,
    model_folder: Path,
    data: Dataset,
    accelerator: Accelerator,
    *,
    where: str,
    phase: Phase,
) -> Encoded:
    """Training and held-out groups; of text encoders and autoencoder, only one is in memory at a time.

    Args:
        run: The run file.
        method: Its shape says what a group is.
        model_folder: Where the base model lies.
        data: The training split.
        accelerator: Processes and devices.
        where: Name of the run file, for messages.
        phase: Shows what is being done.

    Raises:
        PenchantError: The data gives no group, or an option does not fit the model.
    """
    splits = {"train": _groups(run, method, data, "train", where)}
    require_a_batch(len(splits["train"]), run.training.batch_size)  # before hours of encoding
    if run.data.heldout_split is not None:
        heldout = data_of(run, run.data.heldout_split, where=where)
        splits["held-out"] = _groups(run, method, heldout, "held-out", where)
    family = load_family(run, model_folder, where=where, part=Part.TEXT_ENCODERS)
    sizes = sizes_of(run, family, where=where)
    prompt_rows, image_rows = encoding_rows(run, model_folder, sizes, accelerator, where=where)
    family.to(accelerator.device)
    prompts = {name: encode_texts(groups, family, prompt_rows) for name, groups in splits.items()}
    del family
    family = load_family(run, model_folder, where=where, part=Part.AUTOENCODER)
    family.to(accelerator.device)
    preparations = {"train": preparation_of(run, sizes), "held-out": Preparation(sizes=sizes)}
    encoded = {}
    for name, groups in splits.items():
        with phase(f"encoding {name} images", num_images(groups)) as progress:
            latents = encode_images(groups, family, preparations[name], image_rows, progress=progress)
        encoded[name] = joined(groups, latents, prompts[name])
    return Encoded(
        train=encoded["train"],
        heldout=held_out(run, encoded["held-out"]) if "held-out" in encoded else None,
    )


def held_out(run: RunFile, examples: EncodedExamples) -> HeldOutGroups:
    """Which held-out groups are measured, and at which draws."""
    t = run.training
    shuffled = Randomness(run=run.seed).permutation(len(examples.ids), "held-out rows")
    draws = [Randomness(run=run.seed, epoch=-1 - number) for number in range(t.heldout_draws)]
    return HeldOutGroups(examples=examples, rows=shuffled[: t.heldout_examples], draws=draws)


def preparation_of(run: RunFile, sizes: Sequence[Size]) -> Preparation:
    """How the images of training groups become tensors."""
    return Preparation(sizes=sizes, crops=run.data.crops, flip=run.data.flip)


def num_images(groups: Sequence[Group]) -> int:
    """Distinct images of some groups."""
    return len({candidate.content_hash for group in groups for candidate in group.candidates})


def sizes_of(run: RunFile, family: DiffusionFamily, *, where: str) -> tuple[Size, ...]:
    """Height and width of each bucket, or of the one square.

    Raises:
        ConfigError: A side is no multiple of what the model needs.
    """
    data, step = run.data, family.size_step
    size = data.size or family.size
    if size % step:
        raise ConfigError(f"{where}: data.size: must be a multiple of {step} for this model, got {size}.")
    if data.buckets is None:
        return ((size, size),)
    if data.buckets.step % step:
        raise ConfigError(
            f"{where}: data.buckets.step: must be a multiple of {step} for this model, "
            f"got {data.buckets.step}."
        )
    return bucket_sizes(data.buckets.ratios, size=size, step=data.buckets.step)


def _groups(run: RunFile, method: Method, data: Dataset, name: str, where: str) -> list[Group]:
    require_usable(data, method.shape)
    place = f"{where}: data.path: {run.data.path} ({name})"
    return groups_of(data, method.shape, where=place, rules=rules_of(run))
