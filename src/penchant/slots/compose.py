"""A method is a composition of slots; one step of training it.  Axes: B groups, K candidates."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from penchant.errors import CompositionError
from penchant.numerics import at_least_float32
from penchant.protocols import Batch, Evidence, Groups, Models, Objective, Ratio, Term, Weight
from penchant.randomness import Randomness
from penchant.shapes import Shape


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """A published method: data shape x log-ratio x objective x weight (+ terms).

    Slots that do not fit each other are refused here, when the method is built.

    Attributes:
        name: As in the run file.
        source: Authors, year, arXiv id, equation.
        shape: Shape of the data.
        ratio: Estimate of the log-ratio.
        objective: Preference loss.
        weight: Weight of each group; detached.
        terms: Losses added to the objective.

    Raises:
        CompositionError: If two slots do not fit; says what fits.
    """

    name: str
    source: str
    shape: Shape
    ratio: Ratio
    objective: Objective
    weight: Weight
    terms: tuple[Term, ...] = ()

    def __post_init__(self) -> None:
        if self.objective.shape is not self.shape:
            raise CompositionError(
                f"method {self.name!r}: objective {_name(self.objective)} takes {self.objective.shape.value} "
                f"data, the method declares {self.shape.value}. Take an objective for {self.shape.value} "
                f"data, or declare shape {self.objective.shape.value}."
            )
        for slot in (self.objective, self.weight, *self.terms):
            missing = slot.reads - self.ratio.provides
            if missing:
                wanted = " and ".join(sorted(evidence.value for evidence in missing))
                given = ", ".join(sorted(evidence.value for evidence in self.ratio.provides))
                raise CompositionError(
                    f"method {self.name!r}: {_name(slot)} reads the {wanted}; {_name(self.ratio)} does not "
                    f"give it. {_name(self.ratio)} gives: {given}. Take a ratio that gives the {wanted}, "
                    "or a slot that reads one of these."
                )

    @property
    def needs_reference(self) -> bool:
        """True if any slot compares the policy with a reference."""
        return any(Evidence.RATIO in slot.reads for slot in (self.objective, self.weight, *self.terms))


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class StepOutput:
    """What one step gives.

    Attributes:
        loss: Mean over the batch of importance * (weight * objective + terms); carries the gradient.
        measured: Detached numbers of each group, [B] each, under the names of `log.METRICS`; NaN where a
            group has no such number.
        time: Position of each group on the noise scale; None for methods without one.
    """

    loss: Float[Tensor, ""]
    measured: dict[str, Float[Tensor, " B"]]
    time: Float[Tensor, " B"] | None


Pool = Callable[[Groups], Groups]


def step(
    method: Method, models: Models, batch: Batch, draws: Randomness, *, pool: Pool | None = None
) -> StepOutput:
    """Loss and numbers of one batch, the same for all methods.

    Args:
        method: The composition.
        models: Policy and, if `method.needs_reference`, reference.
        batch: What the method's ratio takes.
        draws: Random draws, keyed by example.
        pool: Gives the groups of the whole global batch for those of this one, for objectives that couple the
            batch; without it, this batch is the whole one.

    Returns:
        The loss is the mean over the B groups (not divided by the sum of weights).
    """
    if not method.needs_reference:
        models = replace(models, reference=None)
    groups = method.ratio(models, batch, draws)
    if method.needs_reference and groups.log_reference is None:
        raise CompositionError(f"method {method.name!r}: needs a reference model, got none.")
    if method.objective.couples_batch:
        detached = groups.detach()
        groups = replace(groups, whole=detached if pool is None else pool(detached))
    objective = method.objective(groups)
    weight = method.weight(groups).detach()
    loss = weight * objective
    for term in method.terms:
        loss = loss + term(models, batch, groups, draws)
    if groups.importance is not None:
        loss = groups.importance * loss
    return StepOutput(
        loss=loss.mean(),
        measured=_measured(method, groups, weight, loss=loss.detach(), objective=objective.detach()),
        time=groups.time,
    )


def _measured(
    method: Method, groups: Groups, weight: Tensor, *, loss: Tensor, objective: Tensor
) -> dict[str, Tensor]:
    margin = preference_margin(method.shape, groups.detach())
    factor = gradient_factor(method.objective, groups)
    measured = {
        "loss": loss,
        "loss/objective": objective,
        "margin/mean": margin,
        "margin/positive": (margin > 0).float() + 0.5 * (margin == 0).float(),
        "gradient/factor": factor,
        "gradient/saturated": torch.where(factor.isnan(), torch.nan, (factor < 0.005).float()),
        "weight/mean": weight,
    }
    if groups.log_reference is not None:
        winner, loser = winner_and_loser(method.shape, groups, groups.log_ratio.detach())
        measured |= {"log_ratio/winner": winner, "log_ratio/loser": loser}
    if groups.error is not None and groups.error_reference is not None:
        change = (groups.error - groups.error_reference).detach()
        winner, loser = winner_and_loser(method.shape, groups, change)
        measured |= {"error/winner_change": winner, "error/loser_change": loser}
    return {name: at_least_float32(value) for name, value in measured.items()}


def winner_and_loser(shape: Shape, groups: Groups, values: Float[Tensor, "B K"]) -> tuple[Tensor, Tensor]:
    """The values of the best and the worst candidate of each group; NaN where a group has none."""
    if shape is Shape.UNARY:
        assert groups.score is not None
        desirable, nan = groups.score[:, 0] > 0, torch.full_like(values[:, 0], torch.nan)
        return torch.where(desirable, values[:, 0], nan), torch.where(desirable, nan, values[:, 0])
    return values[:, 0], values.gather(1, groups.last[:, None]).squeeze(1)


def preference_margin(shape: Shape, groups: Groups) -> Float[Tensor, " B"]:
    """How far the policy prefers what people prefer, in nats: best minus worst, or label times log-ratio."""
    log_ratio = at_least_float32(groups.log_ratio)
    if shape is Shape.UNARY:
        assert groups.score is not None
        return groups.score[:, 0] * log_ratio[:, 0]
    winner, loser = winner_and_loser(shape, groups, log_ratio)
    if shape is Shape.PAIR and groups.score is not None:
        return torch.where(groups.score[:, 0] == groups.score[:, 1], 0.0, winner - loser)
    return winner - loser


def gradient_factor(objective: Objective, groups: Groups) -> Float[Tensor, " B"]:
    """Pull of the objective on the best candidate, relative to its pull at rest, times 0.5.

    At rest the policy equals the reference (without a reference: all candidates are alike). For the logistic
    loss this is sigmoid(-beta * margin): 0.5 at rest, 0 for a pair that is learnt, 1 for a wrong one. NaN
    for a group that never pulls, such as a tie.
    """
    resting = groups.detach()
    equal = resting.log_policy.mean(1, keepdim=True).expand_as(resting.log_policy)
    resting = replace(resting, log_policy=equal if resting.log_reference is None else resting.log_reference)
    if (whole := groups.whole) is not None:
        assert whole.log_reference is not None
        resting = replace(resting, whole=replace(whole, log_policy=whole.log_reference))
    now = _pull(objective, replace(groups.detach(), whole=groups.whole))
    at_rest = _pull(objective, resting)
    return torch.where(at_rest > 0, 0.5 * now / at_rest, torch.nan)


def _pull(objective: Objective, groups: Groups) -> Float[Tensor, " B"]:
    """|d loss / d log policy| of the best candidate."""
    leaf = groups.log_policy.clone().requires_grad_()
    with torch.enable_grad():
        loss = objective(replace(groups, log_policy=leaf)).sum()
    return torch.autograd.grad(loss, leaf)[0][:, 0].abs()


def _name(slot: object) -> str:
    return type(slot).__name__
