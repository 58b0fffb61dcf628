"""From N scored candidates of one prompt to pairs, unary labels and ranked lists.

Axes: N candidates, R reward rows. A higher score is better; only the order counts, but for `min_gap`.

Ties: two candidates with equal scores are a tie, and so are two that stand closer than `min_gap`. A tie gives
no pair; it is dropped and counted. Where an order is needed, tied candidates keep the order they came in.
"""

import enum
import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

Score = float | int


class PairRule(enum.Enum):
    """Which of the N (N - 1) / 2 comparisons become pairs.

    ALL: every two candidates. BEST_VS_WORST: the first of the best against the first of the worst.
    ADJACENT: each candidate against the next in the order, best first.
    """

    ALL = "all"
    BEST_VS_WORST = "best-vs-worst"
    ADJACENT = "adjacent"


class UnaryRule(enum.Enum):
    """When one candidate counts as desirable; one that only tied gets no label (0).

    PREFERRED_ONCE: +1 when it won at least once, -1 when it lost and never won.
    ALWAYS: +1 when it won and never lost, -1 when it lost and never won, no label when mixed.
    BEST_OF_N: +1 when it won and never lost, -1 when it lost.
    """

    PREFERRED_ONCE = "preferred-once"
    ALWAYS = "always"
    BEST_OF_N = "best-of-n"


class Pairs(NamedTuple):
    """Pairs drawn from one list of candidates.

    Attributes:
        decided: (winner, loser), as positions in the list of scores.
        num_ties: Comparisons of the rule that were dropped as ties.
    """

    decided: list[tuple[int, int]]
    num_ties: int


class Tally(NamedTuple):
    """Strict wins and losses of each candidate against the others of its list."""

    wins: list[int]
    losses: list[int]


class Ranked(NamedTuple):
    """A list of candidates in order.

    Attributes:
        order: Positions of the candidates, best first; candidates with equal phi keep their order.
        phi: Share of strict pairwise wins in [0, 1], one per candidate, in the order the candidates came in.
    """

    order: list[int]
    phi: list[float]


def order(scores: Sequence[Score]) -> list[int]:
    """Positions of the candidates, best first; equal scores keep their order."""
    _require_finite(scores)
    return sorted(range(len(scores)), key=lambda i: -scores[i])


def pairs(scores: Sequence[Score], rule: PairRule = PairRule.ALL, *, min_gap: Score = 0.0) -> Pairs:
    """Pairs of (winner, loser) that a list of scores supports.

    Args:
        scores: One score per candidate, higher is better.
        rule: Which comparisons are made.
        min_gap: Smallest difference of scores that decides a comparison; >= 0. Equal scores never do.

    Returns:
        Pairs in the order of the rule (ALL: best winners first), and the number of ties dropped.
    """
    if not min_gap >= 0:
        raise ValueError(f"min_gap must be >= 0, got {min_gap}")
    best_first = order(scores)
    match rule:
        case PairRule.ALL:
            compared = list(itertools.combinations(best_first, 2))
        case PairRule.BEST_VS_WORST:
            compared = [(best_first[0], scores.index(min(scores)))] if len(scores) > 1 else []
        case PairRule.ADJACENT:
            compared = list(itertools.pairwise(best_first))
    gaps = [scores[winner] - scores[loser] for winner, loser in compared]
    decided = [pair for pair, gap in zip(compared, gaps, strict=True) if gap > 0 and gap >= min_gap]
    return Pairs(decided, len(compared) - len(decided))


def tally(scores: Sequence[Score]) -> Tally:
    """Strict wins and losses of each candidate against the others; ties add to neither."""
    _require_finite(scores)
    wins = [sum(other < own for other in scores) for own in scores]
    losses = [sum(other > own for other in scores) for own in scores]
    return Tally(wins, losses)


def unary(
    wins: Sequence[int], losses: Sequence[int], rule: UnaryRule = UnaryRule.PREFERRED_ONCE
) -> list[int]:
    """Label of each candidate from the comparisons it took part in: +1 desirable, -1 undesirable, 0 none.

    Args:
        wins: Comparisons won, per candidate; summed over rows where an image is in several.
        losses: Comparisons lost, per candidate.
        rule: When a candidate counts as desirable.

    Source:
        Li et al. 2024 (Diffusion-KTO), arXiv:2404.04465. Its default calls every image undesirable that was
        never preferred; we leave out those that only tied, because a tie says nothing against an image.
    """
    labels = []
    for won, lost in zip(wins, losses, strict=True):
        if won and lost:
            labels.append(_MIXED[rule])
        else:
            labels.append(1 if won else -1 if lost else 0)
    return labels


_MIXED = {UnaryRule.PREFERRED_ONCE: 1, UnaryRule.ALWAYS: 0, UnaryRule.BEST_OF_N: -1}
"""Label of a candidate that won and lost."""


def ranked(rewards: Sequence[Sequence[Score]]) -> Ranked:
    """Order and soft preference of N candidates that R rewards have scored.

    phi_i = 1 / (R (N - 1)) * sum over rewards r and candidates j != i of [R_r(i) > R_r(j)]

    Args:
        rewards: R rows of N scores, higher is better; R >= 1, N >= 2. A tie adds nothing to either side.

    Source:
        Karthik et al. 2024 (RankDPO), arXiv:2410.18013, section 3.1.
    """
    if not rewards or len(rewards[0]) < 2 or any(len(row) != len(rewards[0]) for row in rewards):
        lengths = [len(row) for row in rewards]
        raise ValueError(f"rewards must be rows of one length, at least 2 scores each, got lengths {lengths}")
    won = [sum(wins) for wins in zip(*(tally(row).wins for row in rewards), strict=True)]
    phi = [wins / (len(rewards) * (len(won) - 1)) for wins in won]
    return Ranked(order(phi), phi)


def _require_finite(scores: Sequence[Score]) -> None:
    if not all(math.isfinite(score) for score in scores):
        raise ValueError(f"scores must be finite numbers, got {list(scores)}")
