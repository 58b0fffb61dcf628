"""Preference data by a build file, or existing data judged anew: the rooms of `builders`, wired."""

import importlib.metadata
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from rich.console import Console
from torch import Tensor

from penchant import families
from penchant.builders.candidates import Wanted, draw_candidates
from penchant.builders.feedback import Tally, examples_from, relabelled
from penchant.data import store
from penchant.data.build import BuildRule, require_gap
from penchant.data.columns import Columns
from penchant.data.rows import Example
from penchant.errors import ConfigError, DataError
from penchant.evaluation.sampling import Request, Sampler, draw, requests_for, sampler_of
from penchant.evaluation.suites import read_suite
from penchant.hub import model_hash
from penchant.numerics import accelerator_or_cpu
from penchant.protocols import Reward
from penchant.rewards._cache import ScoreCache, cached
from penchant.runs.build_schema import BuildFile
from penchant.runs.folder import write_json_atomically
from penchant.runs.manifest import versions
from penchant.runs.rewards import rewards_of, typed
from penchant.runs.terminal import phase


def build(
    run: BuildFile, *, where: str, console: Console, overwrite: bool = False
) -> tuple[Path, int, Tally]:
    """Draw, score and pair; the file of pairs, its number of rows, and what became of the images.

    Batches and scores that are in the output folder from an earlier run are taken from there.

    Args:
        run: The build file.
        where: Its name, for messages.
        console: Where progress is shown.
        overwrite: Replace the pairs of an earlier run.

    Raises:
        PenchantError: Something the user gave is wrong, or a reward cannot score.
    """
    folder = Path(run.output)
    out, rule = folder / "pairs.parquet", BuildRule(run.pairs.rule)
    if out.exists() and not overwrite:
        raise DataError(f"{out}: exists already. Set another output, or replace it with --overwrite.")
    try:
        require_gap(rule, run.pairs.min_gap)
    except ConfigError as error:
        raise ConfigError(f"{where}: pairs: {error}") from None
    rewards = _cached(rewards_of(run.rewards, where=where, place=["rewards"]), folder / "scores.sqlite")
    prompts = read_suite(Path(run.prompts)).prompts[: run.num_prompts]
    requests = requests_for(prompts, seeds_per_prompt=run.num_candidates, seed=run.seed)
    wanted = [Wanted(request.prompt, request.seed) for request in requests]
    tally = Tally()
    with phase(console, "sampling", len(wanted)) as progress:
        files = _drawn(run, wanted, folder / "candidates", where, progress)
    with phase(console, "scoring", len(wanted)) as progress:
        examples = examples_from(
            files,
            rewards,
            rule,
            tally=tally,
            min_gap=run.pairs.min_gap,
            min_score=run.filters.min_score,
            near_duplicates=run.filters.near_duplicates,
            progress=progress,
        )
        num_rows = _written(examples, out, tally, overwrite=overwrite)
    manifest = {
        "build": run.model_dump(mode="json"),
        "rewards": {reward.name: reward.version for reward in rewards},
        "versions": versions(),
        "rows": num_rows,
    }
    write_json_atomically(folder / "manifest.json", manifest)
    return out, num_rows, tally


def relabel(
    file: Path,
    out: Path,
    named: Sequence[str],
    *,
    console: Console,
    split: str | None = None,
    columns: Columns | None = None,
    min_gap: float = 0.0,
    score_cache: Path | None = None,
    overwrite: bool = False,
) -> tuple[int, Tally]:
    """Write stored examples with the preference of a reward; the number of rows, and what was compared.

    Args:
        file: Any known layout.
        out: Parquet file to write.
        named: Rewards as typed; the first decides.
        console: Where progress is shown.
        split: Only the rows of this split.
        columns: What the columns of the table mean; None finds it out.
        min_gap: Smallest difference between best and worst that keeps a row.
        score_cache: File of scores; beside `out` if None.
        overwrite: Replace `out` if it exists.

    Raises:
        PenchantError: Something the user gave is wrong, or a reward cannot score.
    """
    if out.exists() and not overwrite:
        raise DataError(f"{out}: exists already. Choose another name, or replace it with --overwrite.")
    require_gap(BuildRule.ALL, min_gap)
    written = [typed(text, where="--reward") for text in named]
    place = score_cache or out.with_name(f"{out.name}.scores.sqlite")
    rewards = _cached(rewards_of(written, where="--reward", place=[]), place)
    data, tally = store.read(file, split=split, columns=columns), Tally()
    with phase(console, "scoring", len(data)) as progress:
        examples = relabelled(data, rewards, tally=tally, min_gap=min_gap, progress=progress)
        return _written(examples, out, tally, overwrite=overwrite), tally


def _cached(rewards: Sequence[Reward], place: Path) -> list[Reward]:
    families.quiet()
    cache = ScoreCache(place)
    return [cached(reward, cache) for reward in rewards]


def _written(examples: Iterator[Example], out: Path, tally: Tally, *, overwrite: bool) -> int:
    """The number of rows; a file without any is refused with the reason."""
    peeked = next(examples, None)
    if peeked is None:
        raise DataError(
            f"{out}: zero usable rows, got {tally.num_images} images of {tally.num_prompts} prompts: "
            f"{tally.num_low} below min_score, {tally.num_duplicates} near duplicates, {tally.num_ties} "
            "comparisons tied or closer than the gap. Loosen the filters, or take another reward."
        )
    return store.write_parquet(itertools.chain([peeked], examples), out, overwrite=overwrite)


def _drawn(
    run: BuildFile, wanted: Sequence[Wanted], folder: Path, where: str, progress: Callable[[int], None]
) -> list[Path]:
    """Files of all batches; the model is loaded only if one is missing."""
    place = f"{where}: model"
    model = families.resolve(run.model, where=place)
    if families.noise_span(model, where=place) < 1:
        raise ConfigError(
            f"{place}: {run.model!r} refines images and draws none of its own. Take the model that "
            "begins them."
        )
    options = run.sampling.model_dump()
    provenance = {
        "model": run.model,
        "model_hash": model_hash(model)[:16],
        "scheduler": json.loads((model / "model_index.json").read_text(encoding="utf-8"))["scheduler"][1],
        "diffusers": importlib.metadata.version("diffusers"),
        **options,
    }
    asked = {name: value for name, value in options.items() if name != "precision"}

    @cache
    def loaded() -> tuple[Any, Sampler]:
        found = families.load_folder(model, where=place, dtype=getattr(torch, run.sampling.precision))
        found.to(accelerator_or_cpu())
        try:
            return found.pipeline, sampler_of(found, **asked)
        except ConfigError as error:
            raise ConfigError(f"{where}: sampling.{error}") from None

    def draw_batch(batch: Sequence[Wanted]) -> Float[Tensor, "N 3 H W"]:
        requests = [Request(prompt=one.prompt, seed=one.seed) for one in batch]
        pipeline, sampler = loaded()
        try:
            return draw(pipeline, requests, sampler)
        except ValueError as error:  # diffusers' word for options that do not fit the model
            raise ConfigError(f"{where}: sampling: {run.model!r} cannot draw so: {error}") from error

    return draw_candidates(
        folder,
        wanted,
        draw_batch,
        batch_size=run.sampling.batch_size,
        provenance=provenance,
        progress=progress,
    )
