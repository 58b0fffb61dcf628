"""Base against tuned model: sampled on the same prompts and seeds, scored, compared."""

import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TypeAlias

import torch
from jaxtyping import Float
from rich.console import Console
from torch import Tensor

from penchant import families, rewards
from penchant.data.images import decode_candidate, prepare
from penchant.data.rows import Example, as_pairs
from penchant.errors import ConfigError, DataError, RunFolderError
from penchant.evaluation.comparison import compare
from penchant.evaluation.drift import PairedImages
from penchant.evaluation.results import EvaluationManifest, Results, write_results
from penchant.evaluation.sampling import Request, draw, requests_for, sampler_of, write_pairs
from penchant.evaluation.suites import PromptSuite, prompt_suite, read_suite
from penchant.numerics import accelerator_or_cpu
from penchant.protocols import Reward
from penchant.rewards._cache import ScoreCache, cached
from penchant.rewards._shipped import perceptual_features
from penchant.rewards.caption_match import CaptionMatch
from penchant.rewards.combined import Combined
from penchant.rewards.style import Style
from penchant.runs.data import SHIPPED_DATA, examples_of, prompts_of
from penchant.runs.first_model import pipelines
from penchant.runs.folder import RunFolder, write_text_atomically
from penchant.runs.load import SET, dump, load
from penchant.runs.manifest import peak_memory
from penchant.runs.rewards import reward_of, rewards_of
from penchant.runs.schema import HELD_OUT, STYLE, RunFile
from penchant.runs.terminal import phase

Images: TypeAlias = Float[Tensor, "N 3 H W"]


def evaluate(
    folder: RunFolder, *, console: Console, assignments: Sequence[str] = (), base: Images | None = None
) -> Results:
    """Sample both models, score them, write samples/ and results.json.

    Args:
        folder: A run folder that `train` has completed.
        console: Where progress is shown.
        assignments: Options of `evaluation` as `--set` takes them; they are kept in the folder's run file.
        base: What `base_images` has drawn for a run of the same base model, evaluation and seed.

    Raises:
        ConfigError: An option is wrong, or belongs to the training.
    """
    run = _run_of(folder, assignments)
    where = str(folder.run_file)
    require_possible(run, where=where)
    metric_of(run, where=where)  # before images are drawn that nothing can judge
    suite = suite_of(run, where=where)
    requests, further = _requests(run, suite)
    started = time.perf_counter()
    base, tuned = sampled(folder, run, [*requests, *further], console, base=base)
    folder.results.unlink(missing_ok=True)  # they and the samples are of an earlier evaluation
    shutil.rmtree(folder.samples, ignore_errors=True)
    write_pairs(folder.samples, [*requests, *further], base, tuned)
    sampled_at = time.perf_counter()
    judged, more = (
        PairedImages(base=base[part], tuned=tuned[part], prompts=[request.prompt for request in asked])
        for part, asked in ((slice(len(requests)), requests), (slice(len(requests), None), further))
    )
    cache = ScoreCache(
        folder.scores if run.evaluation.score_cache is None else Path(run.evaluation.score_cache)
    )
    results = _compared(run, suite, judged, more, cache, where)
    trained = folder.read_manifest()
    assert trained is not None, "the models were found"
    timings = {
        "training_s": trained["training_s"],
        "sampling_s": sampled_at - started,
        "scoring_s": time.perf_counter() - sampled_at,
    }
    peak = max(trained["peak_memory"], peak_memory())
    results = replace(results, timings=timings, peak_memory=peak)
    if assignments:
        write_text_atomically(folder.run_file, dump(run))
    write_results(results, folder.results)
    return results


def base_images(folder: RunFolder, *, console: Console) -> Images:
    """Images of the base model as `evaluate` draws them, for runs that differ in training alone."""
    run = load(folder.run_file)
    requests, further = _requests(run, suite_of(run, where=str(folder.run_file)))
    base, _ = models(folder, run)
    (images,) = _drawn(folder, run, {"base": base}, [*requests, *further], console)
    return images


def sample(
    folder: RunFolder,
    *,
    prompts: Sequence[str],
    num: int,
    out: Path | None,
    console: Console,
    assignments: Sequence[str] = (),
) -> Path:
    """Draw prompts with the base and the tuned model on equal seeds.

    Args:
        folder: A run folder that `train` has completed.
        prompts: What to draw; the held-out prompts if empty.
        num: Images per prompt and model.
        out: Folder of the images, `base/`, `tuned/` and `index.jsonl`; the run's `drawn/` if None.
        console: Where progress is shown.
        assignments: Options of `evaluation` as `--set` takes them, for these images alone.

    Returns:
        The folder of the images.

    Raises:
        RunFolderError: The folder of the images is in use.
        ConfigError: An option is wrong, or belongs to the training.
    """
    run = _run_of(folder, assignments)
    place = folder.drawn if out is None else out
    if place.exists() and any(place.iterdir()):
        raise RunFolderError(f"{place}: exists and is not empty. Give another folder with --out.")
    wanted = prompts or suite_of(run, where=str(folder.run_file)).prompts
    requests = requests_for(wanted, seeds_per_prompt=num, seed=run.seed)
    base, tuned = sampled(folder, run, requests, console)
    write_pairs(place, requests, base, tuned)
    return place


def _run_of(folder: RunFolder, assignments: Sequence[str]) -> RunFile:
    """The run file of a folder with options of its evaluation set on top."""
    for key in (assignment.partition("=")[0].strip() for assignment in assignments):
        if key.split(".")[0] != "evaluation":
            raise ConfigError(
                f"{SET} {key}: belongs to the training, which is over; only options of evaluation can be set "
                "now. Train another run for it."
            )
    return load(folder.run_file, assignments)


def suite_of(run: RunFile, *, where: str) -> PromptSuite:
    """The prompts of the evaluation section."""
    e = run.evaluation
    if e.prompts == HELD_OUT:
        prompts = prompts_of(run, e.split, where=where)
        suite = prompt_suite(e.split, prompts, where=f"{where}: evaluation.split")
    else:
        suite = read_suite(Path(e.prompts))
    return suite if e.num_prompts is None else PromptSuite(suite.name, suite.prompts[: e.num_prompts])


def models(folder: RunFolder, run: RunFile) -> tuple[families.PipelineFamily, families.PipelineFamily]:
    """The base and the tuned model, around plain diffusers pipelines, on the accelerator if there is one."""
    known = folder.read_manifest() or {}
    if not known.get("complete"):
        raise RunFolderError(
            f"{folder.path}: the training is not complete. Go on with `penchant train RUN.yaml --resume`."
        )
    where, dtype = f"{folder.run_file}: model", getattr(torch, run.evaluation.precision)
    base_folder = families.resolve(run.model, where=where)
    base = families.load_folder(base_folder, where=where, dtype=dtype)
    if folder.pipeline.is_dir():
        tuned = families.load_folder(folder.pipeline, where=str(folder.path), dtype=dtype)
    else:
        tuned = families.load_folder(base_folder, where=where, dtype=dtype)
        tuned.pipeline.load_lora_weights(str(folder.adapter))
    for model in (base, tuned):
        model.to(accelerator_or_cpu())
    return base, tuned


def sampled(
    folder: RunFolder, run: RunFile, requests: list[Request], console: Console, *, base: Images | None = None
) -> tuple[Images, Images]:
    """Images of the base model, unless they are there already, and of the tuned one."""
    first, second = models(folder, run)
    if base is None:
        base, tuned = _drawn(folder, run, {"base": first, "tuned": second}, requests, console)
    else:
        (tuned,) = _drawn(folder, run, {"tuned": second}, requests, console)
    return base, tuned


def _drawn(
    folder: RunFolder,
    run: RunFile,
    by_name: Mapping[str, families.PipelineFamily],
    requests: list[Request],
    console: Console,
) -> list[Images]:
    """Images of each model; of models that refine, begun by the same first model."""
    e, drawing = run.evaluation, list(by_name.values())
    try:
        sampler = sampler_of(
            drawing[0],
            num_steps=e.num_steps,
            guidance=e.guidance,
            eta=e.eta,
            batch_size=e.batch_size,
            size=run.data.size,  # the size that it was trained at
        )
    except ConfigError as error:
        raise ConfigError(f"{folder.run_file}: evaluation.{error}") from None
    images = []
    for name, pipeline in zip(by_name, pipelines(run, drawing, where=str(folder.run_file)), strict=True):
        with phase(console, f"sampling the {name} model", len(requests)) as progress:
            images.append(draw(pipeline, requests, sampler, progress=progress))
    return images


def _requests(run: RunFile, suite: PromptSuite) -> tuple[list[Request], list[Request]]:
    """What is judged, and second seeds that only the diversity between seeds reads."""
    seeds = run.evaluation.seeds_per_prompt
    judged = requests_for(suite.prompts, seeds_per_prompt=seeds, seed=run.seed)
    return judged, _second_seeds(run, suite)


def _second_seeds(run: RunFile, suite: PromptSuite) -> list[Request]:
    """A second seed of some prompts, for the diversity between seeds alone; none if all have several."""
    e = run.evaluation
    if e.seeds_per_prompt > 1:
        return []
    return requests_for(suite.prompts[: e.diversity_prompts], seeds_per_prompt=2, seed=run.seed)[1::2]


def _compared(
    run: RunFile, suite: PromptSuite, judged: PairedImages, more: PairedImages, cache: ScoreCache, where: str
) -> Results:
    e = run.evaluation
    known = rewards_of(e.scores, where=where, place=["evaluation", "scores"])
    metric = metric_of(run, where=where)
    captions = next((reward for reward in known if isinstance(reward, CaptionMatch)), None)
    others = [reward for reward in known if reward.name != metric.name and reward is not captions]
    rows = examples_of(run, run.data.train_split, where=where)
    labels = (metric.labels(judged.base), metric.labels(judged.tuned)) if isinstance(metric, Style) else None
    manifest = EvaluationManifest(
        metric=metric.name,
        unit=metric.unit,
        prompt_set=suite.name,
        prompt_hash=suite.hash,
        num_prompts=len(suite.prompts),
        num_seeds=e.seeds_per_prompt,
        sampler="the model's own scheduler"
        + (f", eta {e.eta:g}" if e.eta else "")
        + (f", begun by {e.first_model}" if e.first_model else ""),
        num_steps=e.num_steps,
        guidance_scale=e.guidance,
        precision=e.precision,
        scorer_version=metric.version,
        tie_margin=0.0,
    )
    return compare(
        judged,
        manifest=manifest,
        metric=cached(metric, cache),
        quality=[cached(reward, cache) for reward in others if reward.judges],
        descriptions=[cached(reward, cache) for reward in others if not reward.judges],
        trained=trained_on(run, rows, where=where),
        preferred_labels=labels,
        caption_match=None if captions is None else cached(captions, cache),
        features=perceptual_features,
        preferred_images=_preferred_images(run, rows, judged.base.shape[-1]),
        more_seeds=more,
    )


def trained_on(run: RunFile, rows: Iterable[Example], *, where: str) -> set[str]:
    """Names of the rewards that training aimed at, or that made the labels of the stored data.

    Args:
        run: The run.
        rows: Its training data; what the first 256 rows say of their judge is read.
        where: Place of the run file, for messages.
    """
    if run.online is not None:
        reward = reward_of(run.online.reward, where=where, place=["online", "reward"])
        parts = [part.reward.name for part in reward.parts] if isinstance(reward, Combined) else []
        return {reward.name, *parts}
    judges = (example.provenance.get("judge") for example in islice(rows, 256))
    return {str(judge["name"]) for judge in judges if isinstance(judge, dict) and "name" in judge}


def _preferred_images(run: RunFile, rows: Iterable[Example], size: int) -> Tensor | None:
    """Up to 256 winners of the training data, the goal of the drift panel.

    Of streamed data they are sought in the first 1024 rows, and those that cannot be read are left out, as
    the training has left them out.
    """
    streaming = run.data.streaming
    sought = islice(rows, 1024 if streaming else None)
    images = []
    for winner, _ in islice((pair for row in sought for pair in as_pairs(row)), 256):
        try:
            images.append(prepare([decode_candidate(winner)], size=size) / 2 + 0.5)
        except DataError:
            if not streaming:
                raise
    return torch.cat(images) if images else None


def require_possible(run: RunFile, *, where: str) -> None:
    """Refuse an evaluation section that could not be carried out, before hours of training.

    Raises:
        ConfigError: The metric is the one that training aims at, or a reward has a wrong option.
        DataError: The file of prompts cannot be read.
        ModelError: The first model is not there.
    """
    rewards_of(run.evaluation.scores, where=where, place=["evaluation", "scores"])
    if run.evaluation.metric is not None:
        metric_of(run, where=where)
    if run.evaluation.prompts != HELD_OUT:
        read_suite(Path(run.evaluation.prompts))
    if run.evaluation.first_model is not None:
        families.resolve(run.evaluation.first_model, where=f"{where}: evaluation.first_model")


def metric_of(run: RunFile, *, where: str) -> Reward:
    """The score behind the headline win-rate; never the one that training aimed at.

    Raises:
        ConfigError: Nothing says what people prefer in this data, or the run was trained on the score.
    """
    written = run.evaluation.metric
    if written is None and run.data.path not in SHIPPED_DATA:
        raise ConfigError(
            f"{where}: evaluation.metric: name the reward that judges {run.data.path!r}, here or with "
            f"{SET} evaluation.metric=NAME; only the shipped data has a judge of its own. Rewards: "
            f"{', '.join(rewards.catalog.names())}."
        )
    if written in (None, STYLE):
        metric: Reward = Style(style=run.evaluation.preferred_style)
    else:
        metric = reward_of(written, where=where, place=["evaluation", "metric"])
    if run.online is None:
        return metric
    if reward_of(run.online.reward, where=where, place=["online", "reward"]).name == metric.name:
        raise ConfigError(
            f"{where}: evaluation.metric: the run was trained on {metric.name!r}, which cannot judge it. "
            "Take another."
        )
    return metric
