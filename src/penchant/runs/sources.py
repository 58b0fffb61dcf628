"""From a run file to the batches of each step, and to what is measured beside the training."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import final

from accelerate import Accelerator

from penchant.data.buckets import Size
from penchant.data.dataset import Dataset
from penchant.data.stream import Stream
from penchant.diffusion.schedule import VariancePreserving
from penchant.errors import CompositionError, ConfigError
from penchant.protocols import DiffusionFamily, Models
from penchant.runs.caches import with_cached_reference
from penchant.runs.data import rules_of, stream_of
from penchant.runs.encoding import Encoded, HeldOutGroups, held_out, num_images, preparation_of, sizes_of
from penchant.runs.noise import law_of
from penchant.runs.rewards import reward_of
from penchant.runs.schema import RunFile
from penchant.runs.terminal import Phase
from penchant.slots.compose import Method
from penchant.slots.ratios.stepwise import Stepwise
from penchant.training.encode import Preparation, encode, sampling_conditions
from penchant.training.online.rollout import RolloutSource
from penchant.training.source import Source, StoredSource, repeated_draws
from penchant.training.stream import BrokenRows, StreamSource, first_groups
from penchant.training.timesteps import DrawnTimesteps, QuantileLaw


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
    law: QuantileLaw | None = None
    broken: BrokenRows | None = None

    def close(self) -> None:
        """End what reads ahead; a source that is asked again starts it again."""
        if self.broken is not None:
            self.broken.source.close()


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class SourceMaker:
    """Makes the sources of a run.

    Attributes:
        run: The run file.
        method: The composition.
        models: Policy and reference, at their starting point.
        family: The loaded model; its encoders are freed once nothing needs them.
        model_hash: Hash of its folder.
        accelerator: Processes and devices.
        where: Name of the run file, for messages.
        phase: Shows what is being done.
    """

    run: RunFile
    method: Method
    models: Models
    family: DiffusionFamily
    model_hash: str
    accelerator: Accelerator
    where: str
    phase: Phase

    def __call__(self, data: Dataset | Stream, encoded: Encoded | None) -> Sources:
        """The sources over the training data.

        Args:
            data: The training split.
            encoded: The same after the encoders, of stored data that the method learns from.

        Raises:
            PenchantError: Options do not fit each other, the model or the data.
        """
        if isinstance(self.method.ratio, Stepwise):
            assert isinstance(data, Dataset)
            return Sources(train=self._rollout(self.method.ratio, data))
        if isinstance(data, Stream):
            return self._streamed(data)
        assert encoded is not None
        return self._stored(encoded, data.content_hash)

    def _stored(self, encoded: Encoded, data_hash: str) -> Sources:
        """Every image and prompt was encoded once."""
        run, t = self.run, self.run.training
        law = law_of(self.family.process, run.noise)
        examples, heldout = encoded.train, encoded.heldout
        cached = t.reference.kind == "cached"
        stored = partial(
            StoredSource,
            batch_size=t.batch_size,
            micro_batch_size=self._micro_batch_size,
            prompt_dropout=run.data.prompt_dropout,
            seed=run.seed,
            num_draws=t.reference.draws if cached else None,
            process=self.accelerator.process_index,
            num_processes=self.accelerator.num_processes,
        )
        source = stored(examples)
        if cached:
            measured = partial(
                with_cached_reference,
                run,
                self.method,
                self.family,
                data_hash=data_hash,
                model_hash=self.model_hash,
                accelerator=self.accelerator,
                where=self.where,
                phase=self.phase,
            )
            steps = max(t.steps, run.auto_beta.probe_steps) if run.wants_auto_beta else t.steps
            source = stored(measured(examples, name="train", wanted=list(source.seen(steps))))
            if heldout is not None:
                numbers = [draws.epoch for draws in heldout.draws]
                wanted = [(number, heldout.rows) for number in numbers]
                again = measured(heldout.examples, name="held-out", wanted=wanted)
                draws = [repeated_draws(number) for number in numbers]
                heldout = HeldOutGroups(examples=again, rows=heldout.rows, draws=draws)
        return Sources(
            train=source if law is None else DrawnTimesteps(source, law),
            heldout=heldout,
            num_groups=len(examples.ids),
            law=law,
        )

    def _streamed(self, stream: Stream) -> Sources:
        """Images and prompts are encoded for the step that needs them."""
        run = self.run
        sizes = sizes_of(run, self.family, where=self.where)
        self._refuse_with_streaming(sizes)
        law = law_of(self.family.process, run.noise)
        source = StreamSource(
            stream,
            self.method.shape,
            rules_of(run),
            self.family,
            preparation_of(run, sizes),
            batch_size=run.training.batch_size,
            micro_batch_size=self._micro_batch_size,
            shuffle_buffer=run.data.shuffle_buffer,
            max_broken=run.data.max_broken,
            prompt_dropout=run.data.prompt_dropout,
            seed=run.seed,
            process=self.accelerator.process_index,
            num_processes=self.accelerator.num_processes,
        )
        return Sources(
            train=source if law is None else DrawnTimesteps(source, law),
            heldout=self._streamed_heldout(sizes),
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
        if family.noise_span < 1:
            raise CompositionError(
                f"{self.where}: method {self.method.name!r} samples the model while it trains, and "
                f"{run.model!r} refines images and draws none of its own. Take a method for stored data."
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

    def _streamed_heldout(self, sizes: Sequence[Size]) -> HeldOutGroups | None:
        """No more held-out groups in memory than are measured."""
        run, split = self.run, self.run.data.heldout_split
        if split is None:
            return None
        stream = stream_of(run, split, where=self.where)
        groups = first_groups(stream, self.method.shape, rules_of(run), run.training.heldout_examples)
        with self.phase("encoding held-out images", num_images(groups)) as progress:
            return held_out(run, encode(groups, self.family, Preparation(sizes=sizes), progress=progress))

    def _refuse_with_streaming(self, sizes: Sequence[Size]) -> None:
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
        if len(sizes) > 1 and self.accelerator.num_processes > 1:
            raise ConfigError(
                f"{self.where}: data.buckets: streamed buckets work in one process, got "
                f"{self.accelerator.num_processes}. Remove buckets, or streaming."
            )
