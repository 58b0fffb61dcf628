"""Feedback of rewards: candidates scored, filtered and made into examples, or pairs judged anew.

Axes: N images, 3 channels, H W pixels.
"""

import itertools
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from penchant.builders.duplicates import far_apart
from penchant.data import store
from penchant.data.build import BuildRule, examples_of
from penchant.data.images import decode_candidate
from penchant.data.rows import Candidate, Example
from penchant.protocols import Reward

_EXAMPLES_AT_ONCE = 16


@final
@dataclass(kw_only=True)
class Tally:
    """What became of the images and comparisons.

    Attributes:
        num_prompts: Prompts that were read.
        num_images: Images that were scored.
        num_low: Images left out for their score.
        num_duplicates: Images left out as near duplicates.
        num_single: Prompts with fewer than two images left.
        num_ties: Comparisons, or rows, left out as equal or closer than the gap.
        num_agreed: Comparisons that the first reward and the earlier preference decide alike.
        num_decided: Comparisons that both decide.
        scores: All scores by reward.
    """

    num_prompts: int = 0
    num_images: int = 0
    num_low: int = 0
    num_duplicates: int = 0
    num_single: int = 0
    num_ties: int = 0
    num_agreed: int = 0
    num_decided: int = 0
    scores: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def scale(self, name: str) -> tuple[float, float]:
        """Mean and standard deviation of a reward's scores: the numbers that a combination asks for."""
        return statistics.fmean(self.scores[name]), statistics.pstdev(self.scores[name])


def scored(
    candidates: Sequence[Candidate], prompts: Sequence[str], rewards: Sequence[Reward], tally: Tally
) -> list[Candidate]:
    """The candidates with the score of every reward, and under `meta` each reward's version.

    Raises:
        DataError: A candidate is a text, or its image cannot be decoded.
        RewardError: A reward gives no usable scores.
    """
    places: dict[tuple[int, int], list[int]] = defaultdict(list)
    pictures = [decode_candidate(candidate) for candidate in candidates]
    for place, picture in enumerate(pictures):
        places[picture.size].append(place)
    scores: list[dict[str, float]] = [{} for _ in candidates]
    for same_size in places.values():
        images = _tensor([pictures[place] for place in same_size])
        for reward in rewards:
            found = reward(images, [prompts[place] for place in same_size]).tolist()
            tally.scores[reward.name] += found
            for place, score in zip(same_size, found, strict=True):
                scores[place][reward.name] = score
    tally.num_images += len(candidates)
    versions = {reward.name: reward.version for reward in rewards}
    return [
        replace(
            candidate,
            scores={**candidate.scores, **found},
            meta={**candidate.meta, "scorers": {**candidate.meta.get("scorers", {}), **versions}},
        )
        for candidate, found in zip(candidates, scores, strict=True)
    ]


def examples_from(
    files: Sequence[Path],
    rewards: Sequence[Reward],
    rule: BuildRule,
    *,
    tally: Tally,
    min_gap: float = 0.0,
    min_score: float | None = None,
    near_duplicates: int | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> Iterator[Example]:
    """Examples from the batches of `draw_candidates`, one prompt after the other.

    Args:
        files: The batches, in order; images of a prompt stand together.
        rewards: Score every image; the first decides what is preferred.
        rule: Which comparisons become pairs, or lists.
        tally: Filled while the examples are read.
        min_gap: Smallest difference of scores that makes a pair.
        min_score: Lowest score that is kept.
        near_duplicates: Images of a prompt whose 64-bit hashes differ in at most so many bits are duplicates;
            None keeps all.
        progress: Told how many images are scored.
    """
    judge = rewards[0]
    provenance = {
        "feedback": "reward",
        "judge": {"name": judge.name, "version": judge.version},
        "rule": rule.value,
        "min_gap": min_gap,
    }
    for prompt, group in itertools.groupby(
        _scored_files(files, rewards, tally, progress), lambda row: row[0]
    ):
        tally.num_prompts += 1
        candidates = [candidate for _, candidate in group]
        kept = [c for c in candidates if min_score is None or c.scores[judge.name] >= min_score]
        tally.num_low += len(candidates) - len(kept)
        if near_duplicates is not None:
            distinct = far_apart(kept, near_duplicates)
            tally.num_duplicates += len(kept) - len(distinct)
            kept = distinct
        tally.num_single += len(kept) < 2
        scores = [candidate.scores[judge.name] for candidate in kept]
        examples, num_ties = examples_of(prompt, kept, scores, rule, min_gap=min_gap, provenance=provenance)
        tally.num_ties += num_ties
        yield from examples


def relabelled(
    examples: Iterable[Example],
    rewards: Sequence[Reward],
    *,
    tally: Tally,
    min_gap: float = 0.0,
    progress: Callable[[int], None] = lambda done: None,
) -> Iterator[Example]:
    """The same examples with the preference of the first reward: its scores.

    A row whose best and worst candidate are equal or closer than the gap is left out. The earlier preference
    is kept in the provenance, and compared. Earlier scores of a candidate go to `meta`, as `earlier_scores`:
    a ranked list is made of all that stand under `scores`.

    Args:
        examples: Any examples of images.
        rewards: Score every candidate; the first decides, but a ranked list counts wins over all of them.
        tally: Filled while the examples are read.
        min_gap: Smallest difference between best and worst that keeps a row.
        progress: Told how many rows are done.
    """
    judge, rows, num_done = rewards[0], iter(examples), 0
    while some := list(itertools.islice(rows, _EXAMPLES_AT_ONCE)):
        flat = [
            (_unscored(candidate), example.prompt) for example in some for candidate in example.candidates
        ]
        fresh = iter(scored([c for c, _ in flat], [prompt for _, prompt in flat], rewards, tally))
        for example in some:
            candidates = tuple(next(fresh) for _ in example.candidates)
            scores = tuple(candidate.scores[judge.name] for candidate in candidates)
            _compare(example.preference, scores, tally)
            gap = max(scores) - min(scores)
            if gap == 0 or gap < min_gap:
                tally.num_ties += 1
                continue
            yield replace(
                example,
                candidates=candidates,
                preference=scores,
                provenance={**example.provenance, **_judged(judge, example, min_gap)},
            )
        num_done += len(some)
        progress(num_done)
    tally.num_prompts = num_done


def _unscored(candidate: Candidate) -> Candidate:
    """The candidate without its scores, which are kept under `meta`."""
    if not candidate.scores:
        return candidate
    earlier = {**candidate.meta.get("earlier_scores", {}), **candidate.scores}
    return replace(candidate, scores={}, meta={**candidate.meta, "earlier_scores": earlier})


def _judged(judge: Reward, example: Example, min_gap: float) -> dict[str, Any]:
    return {
        "feedback": "reward",
        "judge": {"name": judge.name, "version": judge.version},
        "min_gap": min_gap,
        "earlier_preference": None if example.preference is None else list(example.preference),
    }


def _compare(earlier: Sequence[float] | None, scores: Sequence[float], tally: Tally) -> None:
    if earlier is None:
        return
    for a, b in itertools.combinations(range(len(scores)), 2):
        before, now = earlier[a] - earlier[b], scores[a] - scores[b]
        tally.num_decided += bool(before and now)
        tally.num_agreed += before * now > 0


def _scored_files(
    files: Sequence[Path], rewards: Sequence[Reward], tally: Tally, progress: Callable[[int], None]
) -> Iterator[tuple[str, Candidate]]:
    for file in files:
        examples = list(store.read(file))
        prompts = [example.prompt for example in examples]
        candidates = scored([example.candidates[0] for example in examples], prompts, rewards, tally)
        progress(tally.num_images)
        yield from zip(prompts, candidates, strict=True)


def _tensor(pictures: Sequence[Image.Image]) -> Float[Tensor, "N 3 H W"]:
    pixels = torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures]))
    return pixels.permute(0, 3, 1, 2).float() / 255
