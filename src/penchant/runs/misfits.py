"""What does not fit together between a run file and its method, so that no option is ignored in silence.

Rules that one section can tell by itself stand with that section in `runs.schema`; those that need the model
or the data stand where these are read.
"""

from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from typing import Final, final

from penchant import rewards
from penchant.errors import CompositionError, ConfigError
from penchant.runs.schema import Reference, RunFile
from penchant.shapes import Shape
from penchant.slots.compose import Method
from penchant.slots.ratios.denoising import Denoising
from penchant.slots.ratios.stepwise import Stepwise


def _samples(run: RunFile, method: Method) -> bool:
    """True if the method learns from images of the model itself."""
    return isinstance(method.ratio, Stepwise)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class _Unread:
    """Options that some runs do not read; there they must have their defaults.

    Attributes:
        options: Places in the run file.
        when: The runs that do not read them.
        because: Sentence for the user, with the way out; `{method}` is the name of the method.
    """

    options: tuple[str, ...]
    when: Callable[[RunFile, Method], bool]
    because: str


def _of_shape(shape: Shape, *options: str) -> _Unread:
    """How candidates become groups, which methods of one shape read."""
    return _Unread(
        options=options,
        when=lambda run, method: _samples(run, method) or method.shape is not shape,
        because=f"method {{method!r}} does not read it; it is for methods of shape {shape.value}. Remove it.",
    )


_HELD_OUT: Final = ("training.heldout_every", "training.heldout_examples", "training.heldout_draws")

_UNREAD: Final = (
    _Unread(
        options=("training.reference",),
        when=lambda run, method: not method.needs_reference,
        because="method {method!r} has no reference and does not read this section. Remove it.",
    ),
    _Unread(
        options=("training.batch_size", "training.micro_batch_size"),
        when=_samples,
        because="a method that samples the model does not read it. Remove it; online.prompts_per_step sets "
        "the size of a step.",
    ),
    _Unread(
        options=(
            *("data.flip", "data.size", "data.buckets", "data.crops", "data.cache", "data.prompt_dropout"),
            *("data.min_size", "data.streaming", *_HELD_OUT),
        ),
        when=_samples,
        because="a method that samples the model reads no stored images. Remove it.",
    ),
    _Unread(
        options=_HELD_OUT,
        when=lambda run, method: run.data.heldout_split is None,
        because="nothing is measured during training with data.heldout_split: null. Remove it, or name a "
        "split there.",
    ),
    _Unread(
        options=("noise",),
        when=_samples,
        because="a method that samples the model is trained on the sampler's timesteps and does not read "
        "this section. Remove it.",
    ),
    _of_shape(Shape.PAIR, "data.pairs", "data.min_gap"),
    _of_shape(Shape.UNARY, "data.labels"),
    _of_shape(Shape.RANKED, "data.top_k"),
)


def refuse_misfits(run: RunFile, method: Method, *, where: str) -> None:
    """Refuse options that the run would not read, or that do not fit the method, before anything is loaded.

    Raises:
        ConfigError: An option is not read by this run, or needs another one.
        CompositionError: The objective compares groups with a mean over the batch, which weights would bend.
    """
    _refuse_source(run, method, where)
    for rule in _UNREAD:
        for option in rule.options if rule.when(run, method) else ():
            if _changed(run, option):
                raise ConfigError(f"{where}: {option}: {rule.because.format(method=method.name)}")
    if run.noise.draw == "importance" and method.objective.couples_batch:
        raise CompositionError(
            f"{where}: noise.draw: importance does not fit method {method.name!r}, whose objective reads a "
            "mean over the batch. Take stratified or antithetic."
        )
    if run.training.reference.kind == "cached":
        _refuse_with_cached_errors(run, method, where)


def _changed(run: RunFile, option: str) -> bool:
    section, _, name = option.rpartition(".")
    return bool((attrgetter(section)(run) if section else run).changed(name))


def _refuse_source(run: RunFile, method: Method, where: str) -> None:
    """The section `online` is there if, and only if, the method samples."""
    if _samples(run, method) and run.online is None:
        raise ConfigError(
            f"{where}: method {method.name!r} samples the model while it trains and needs a section "
            "`online: {reward: NAME}`. Rewards: " + ", ".join(rewards.catalog.names()) + "."
        )
    if not _samples(run, method) and run.online is not None:
        raise ConfigError(
            f"{where}: online: method {method.name!r} learns from stored data and does not read this "
            "section. Remove it, or take d3po."
        )


def _refuse_with_cached_errors(run: RunFile, method: Method, where: str) -> None:
    if _samples(run, method):
        raise ConfigError(
            f"{where}: training.reference.kind: a method that samples the model sees each image once, so "
            f"there is nothing to cache. Take {Reference().kind}."
        )
    if not isinstance(method.ratio, Denoising):
        raise ConfigError(
            f"{where}: training.reference.kind: cached errors fit the ratio Denoising, method "
            f"{method.name!r} has {type(method.ratio).__name__}. Take kind start or copy."
        )
    if run.noise.draw != "independent":
        raise ConfigError(
            f"{where}: noise.draw: with cached errors each group keeps its own timesteps, got "
            f"{run.noise.draw!r}. Take independent, or another kind of reference."
        )
