"""From a run file to the batches of each step, and to what is measured beside the training."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import final

from accelerate import Accelerator

from penchant.data.buckets import Size, bucket_sizes
from penchant.data.dataset import Dataset, require_usable
from penchant.data.stream import Stream
from penchant.diffusion.schedule import VariancePreserving
from penchant.errors import CompositionError, ConfigError
from penchant.protocols import DiffusionFamily, Models
from penchant.randomness import Randomness
from penchant.runs.caches import encoding_rows, with_cached_reference
from penchant.runs.data import data_of, rules_of, stream_of
from penchant.runs.noise import law_of
from penchant.runs.rewards import reward_of
from penchant.runs.schema import Noise, Reference, RunFile
from penchant.runs.terminal import Phase
from penchant.slots.compose import Method
from penchant.slots.ratios.stepwise import Stepwise
from penchant.training.encode import Group, Preparation, encode, groups_of, sampling_conditions
from penchant.training.online.rollout import RolloutSource
from penchant.training.source import EncodedExamples, Source, StoredSource, repeated_draws
from penchant.training.stream import BrokenRows, StreamSource, first_groups
from penchant.training.table import Rows
from penchant.training.timesteps import DrawnTimesteps, TimestepLaw


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
class Sources:
    """Where the numbers of a run come from.

    Attributes:
        train: Batches of each step.
        heldout: Held-out groups; None without any.
        num_groups: Groups of the training split, rows if they are streamed; 0 for a method that samples.
        law: How the timesteps of a step are drawn together; None if each is drawn for itself.
        broken: Counts the rows that cannot be read; None if the data is not streamed.
    """

    train: Source
    heldout: HeldOutGroups | None = None
    num_groups: int = 0
    law: TimestepLaw | None = None
    broken: BrokenRows | None = None


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class SourceMaker:
    """Makes the sources of a run.

    Attributes:
        run: The run file.
        method: The composition.
        models: Policy and reference, at their starting point.
        family: The loaded model; its encoders are freed once nothing needs them.
        model_folder: Where it lies.
        accelerator: Processes and devices.
        where: Name of the run file, for messages.
        phase: Shows what is being done.
    """

    run: RunFile
    method: Method
    models: Models
    family: DiffusionFamily
    model_folder: Path
    accelerator: Accelerator
    where: str
    phase: Phase
    sizes: Sequence[Size] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "sizes", self._sizes())

    def __call__(self, data: Dataset | Stream) -> Sources:
        """The sources over the training data.

        Raises:
            PenchantError: Options do not fit each other, the model or the data.
        """
        if isinstance(self.method.ratio, Stepwise):
            assert isinstance(data, Dataset)
            return Sources(train=self._rollout(self.method.ratio, data))
        processes = self.accelerator.num_processes
        if self.run.training.batch_size % processes:
            raise ConfigError(
                f"{self.where}: training.batch_size: must be divisible by the {processes} processes, "
                f"got {self.run.training.batch_size}."
            )
        return self._streamed(data) if isinstance(data, Stream) else self._stored(data)

    def _stored(self, data: Dataset) -> Sources:
        """Every image and prompt is encoded once, before the first step."""
        run, t = self.run, self.run.training
        law = law_of(self.family.process, run.noise, self.method, where=self.where)
        rows = encoding_rows(run, self.model_folder, self.sizes, self.accelerator, where=self.where)
        training = Preparation(sizes=self.sizes, crops=run.data.crops, flip=run.data.flip)
        examples = self._examples(self._groups(data, "train"), training, rows, "train")
        heldout = self._heldout(rows)
        self.family.release_encoders()
        cached = t.reference.kind == "cached"
        if cached:
            measured = partial(
                with_cached_reference,
                run,
                self.method,
                self.family,
                data_hash=data.content_hash,
                model_folder=self.model_folder,
                accelerator=self.accelerator,
                where=self.where,
                phase=self.phase,
            )
            everything, numbers = range(len(examples.ids)), range(t.reference.draws)
            examples = measured(examples, name="train", chosen=everything, numbers=numbers)
            if heldout is not None:
                numbers = [draws.epoch for draws in heldout.draws]
                again = measured(heldout.examples, name="held-out", chosen=heldout.rows, numbers=numbers)
                draws = [repeated_draws(number) for number in numbers]
                heldout = HeldOutGroups(examples=again, rows=heldout.rows, draws=draws)
        source = StoredSource(
            examples,
            batch_size=t.batch_size,
            micro_batch_size=self._micro_batch_size,
            prompt_dropout=run.data.prompt_dropout,
            seed=run.seed,
            num_draws=t.reference.draws if cached else None,
            process=self.accelerator.process_index,
            num_processes=self.accelerator.num_processes,
        )
        return Sources(
            train=source if law is None else DrawnTimesteps(source, law),
            heldout=heldout,
            num_groups=len(examples.ids),
            law=law,
        )

    def _streamed(self, stream: Stream) -> Sources:
        """Images and prompts are encoded for the step that needs them."""
        run = self.run
        self._refuse_with_streaming()
        law = law_of(self.family.process, run.noise, self.method, where=self.where)
        source = StreamSource(
            stream,
            self.method.shape,
            rules_of(run),
            self.family,
            Preparation(sizes=self.sizes, crops=run.data.crops, flip=run.data.flip),
            batch_size=run.training.batch_size,
            micro_batch_size=self._micro_batch_size,
            shuffle_buffer=run.data.shuffle_buffer,
            prompt_dropout=run.data.prompt_dropout,
            seed=run.seed,
            process=self.accelerator.process_index,
            num_processes=self.accelerator.num_processes,
        )
        rows = encoding_rows(run, self.model_folder, self.sizes, self.accelerator, where=self.where)
        return Sources(
            train=source if law is None else DrawnTimesteps(source, law),
            heldout=self._heldout(rows),
            num_groups=len(stream),
            law=law,
            broken=BrokenRows(source, share=run.data.max_broken, at_least=run.data.shuffle_buffer),
        )

    def _rollout(self, ratio: Stepwise, data: Dataset) -> RolloutSource:
        """Images of the policy itself, ranked by a reward."""
        run, family, accelerator = self.run, self.family, self.accelerator
        assert run.online is not None
        if not isinstance(family.process, VariancePreserving):
            raise CompositionError(
                f"{self.where}: method {self.method.name!r} samples by DDIM, which does not fit the flow "
                f"model {run.model!r}. Take a method for stored data."
            )
        if ratio.sampler.num_steps >= family.process.num_timesteps:
            raise ConfigError(
                f"{self.where}: ratio.sampler.num_steps: must be < {family.process.num_timesteps}, the "
                f"model's timesteps, got {ratio.sampler.num_steps}."
            )
        if run.online.prompts_per_step % accelerator.num_processes:
            raise ConfigError(
                f"{self.where}: online.prompts_per_step: must be divisible by the "
                f"{accelerator.num_processes} processes, got {run.online.prompts_per_step}."
            )
        prompts = list(dict.fromkeys(header.prompt for header in data.headers))
        return RolloutSource(
            self.models.policy,
            ratio.sampler,
            prompts=prompts,
            conditions=sampling_conditions(["", *prompts], family),
            sample_shape=family.sample_shape,
            decode=family.decode,
            reward=reward_of(run.online.reward, where=self.where, place=["online", "reward"]),
            prompts_per_step=run.online.prompts_per_step,
            seed=run.seed,
            device=accelerator.device,
            process=accelerator.process_index,
            num_processes=accelerator.num_processes,
        )

    @property
    def _micro_batch_size(self) -> int:
        t = self.run.training
        return t.micro_batch_size or t.batch_size // self.accelerator.num_processes

    def _sizes(self) -> tuple[Size, ...]:
        """Height and width of each bucket, or of the one square."""
        data, step = self.run.data, self.family.size_step
        size = data.size or self.family.size
        if size % step:
            raise ConfigError(
                f"{self.where}: data.size: must be a multiple of {step} for this model, got {size}."
            )
        if data.buckets is None:
            return ((size, size),)
        if data.buckets.step % step:
            raise ConfigError(
                f"{self.where}: data.buckets.step: must be a multiple of {step} for this model, "
                f"got {data.buckets.step}."
            )
        return bucket_sizes(data.buckets.ratios, size=size, step=data.buckets.step)

    def _groups(self, data: Dataset, name: str) -> list[Group]:
        require_usable(data, self.method.shape)
        place = f"{self.where}: data.path: {self.run.data.path} ({name})"
        return groups_of(data, self.method.shape, where=place, rules=rules_of(self.run))

    def _examples(
        self, groups: list[Group], preparation: Preparation, rows: tuple[Rows, Rows], name: str
    ) -> EncodedExamples:
        images = len({candidate.content_hash for group in groups for candidate in group.candidates})
        with self.phase(f"encoding {name} images", images) as progress:
            return encode(
                groups, self.family, preparation, prompts=rows[0], images=rows[1], progress=progress
            )

    def _heldout(self, rows: tuple[Rows, Rows]) -> HeldOutGroups | None:
        run, t = self.run, self.run.training
        split = run.data.heldout_split
        if split is None:
            return None
        if run.data.streaming:  # no more of it in memory than is measured
            stream = stream_of(run, split, where=self.where)
            groups = first_groups(stream, self.method.shape, rules_of(run), t.heldout_examples)
        else:
            groups = self._groups(data_of(run, split, where=self.where), "held-out")
        examples = self._examples(groups, Preparation(sizes=self.sizes), rows, "held-out")
        shuffled = Randomness(run=run.seed).permutation(len(examples.ids), "held-out rows")
        draws = [Randomness(run=run.seed, epoch=-1 - number) for number in range(t.heldout_draws)]
        return HeldOutGroups(examples=examples, rows=shuffled[: t.heldout_examples], draws=draws)

    def _refuse_with_streaming(self) -> None:
        run = self.run
        if run.data.cache is not None:
            raise ConfigError(
                f"{self.where}: data.cache: streamed images are encoded when a step needs them and are not "
                "kept. Remove cache, or streaming."
            )
        if run.training.reference.kind == "cached":
            raise ConfigError(
                f"{self.where}: training.reference.kind: errors of streamed data are not cached. Take "
                "another kind, or remove data.streaming."
            )
        if len(self.sizes) > 1 and self.accelerator.num_processes > 1:
            raise ConfigError(
                f"{self.where}: data.buckets: streamed buckets work in one process, got "
                f"{self.accelerator.num_processes}. Remove buckets, or streaming."
            )


def refuse_stored_options(run: RunFile, where: str) -> None:
    """A method that samples reads prompts alone; options of stored images would be ignored in silence."""
    read_by_stored = {
        "training": (run.training, ("batch_size", "micro_batch_size", "heldout_every", "heldout_examples")),
        "data": (run.data, ("flip", "size", "buckets", "crops", "cache", "prompt_dropout", "streaming")),
    }
    for section, (options, names) in read_by_stored.items():
        for name in names:
            if getattr(options, name) != type(options).model_fields[name].default:
                raise ConfigError(
                    f"{where}: {section}.{name}: a method that samples the model does not read it. "
                    "Remove it; online.prompts_per_step sets the size of a step."
                )
    if run.noise != Noise():
        raise ConfigError(
            f"{where}: noise: a method that samples the model is trained on the sampler's timesteps and does "
            "not read this section. Remove it."
        )
    if run.training.reference.kind == "cached":
        raise ConfigError(
            f"{where}: training.reference.kind: a method that samples the model sees each image once, so "
            f"there is nothing to cache. Take {Reference().kind}."
        )
