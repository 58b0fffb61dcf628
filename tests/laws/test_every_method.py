"""Laws that hold for every method in the catalogue, unasked."""

import dataclasses
import math
from dataclasses import replace
from pathlib import Path
from typing import get_args, get_origin, get_type_hints

import pytest
import torch
from tests.laws.cases import Case, case, draws, select

from penchant.diffusion.samplers import DDIM
from penchant.methods import catalog
from penchant.methods.diffusion_kto import UTILITIES
from penchant.methods.rank_dpo import discounted_gain_gap
from penchant.protocols import Domain, Groups, LatentBatch
from penchant.shapes import Shape
from penchant.slots.compose import step

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(params=catalog.names())
def method(request):
    return catalog.get(request.param)


def resting_loss(method, batch) -> float:
    """The loss that a method declares at policy = reference."""
    name = type(method.objective).__name__
    if name == "DiscountedPairs":
        weight = discounted_gain_gap(batch.score)
        return (torch.triu(torch.ones(weight.shape[1:]), 1) * weight).sum((1, 2)).mean().item() * math.log(2)
    if name == "HumanUtility":
        label = batch.score[:, 0]
        return (1 - UTILITIES[method.objective.utility](label, torch.zeros_like(label))).mean().item()
    return math.log(2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_policy_equal_to_reference_has_margin_exactly_zero(method, dtype):
    if not method.needs_reference:
        assert "log_ratio/winner" not in run(case(method), moved=False).measured
        return
    this = case(method)
    this.policy = this.policy.to(dtype)
    out = run(this, moved=False)
    assert out.measured["margin/mean"].abs().max().item() == 0
    assert out.measured["margin/positive"].mean().item() == 0.5
    assert out.loss.item() == pytest.approx(resting_loss(method, this.batch), abs=1e-6)
    assert out.measured["gradient/factor"].mean().item() == pytest.approx(0.5, abs=1e-6)


def run(this: Case, *, moved: bool = True, method=None, batch=None):
    return step(method or this.method, this.models(moved=moved), batch or this.batch, draws())


def test_only_the_policy_gets_gradients(method):
    this = case(method)
    models = this.models()
    step(method, models, this.batch, draws()).loss.backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in this.policy.parameters())
    assert sum(p.grad.abs().sum() for p in this.policy.parameters()) > 0
    assert all(p.grad is None for p in models.reference.parameters())


def test_a_step_down_the_gradient_raises_the_margin(method):
    """The sign of the whole method: learning must prefer what people prefer."""
    this = case(method)
    models = this.models(moved=False)
    before = step(method, models, this.batch, draws())
    before.loss.backward()
    norm = torch.stack([p.grad.norm() for p in this.policy.parameters()]).norm()
    for parameter in this.policy.parameters():
        parameter.data -= 0.01 * parameter.grad / norm
    after = step(method, models, this.batch, draws())
    assert after.measured["margin/mean"].mean() > before.measured["margin/mean"].mean()
    assert after.loss < before.loss


def test_learning_the_winners_by_plain_likelihood_raises_their_log_ratio(method):
    """The sign of the ratio alone, against the training loss that every such model is built with."""
    this = case(method)
    models = this.models(moved=False)
    optimizer = torch.optim.Adam(this.policy.parameters(), lr=3e-3)
    best = winners(this.batch)
    for _ in range(40):
        optimizer.zero_grad()
        plain_loss(this, best).backward()
        optimizer.step()
    groups = method.ratio(models, this.batch, draws())
    desirable = groups.score[:, 0] > 0 if method.shape is Shape.UNARY else torch.ones(len(best.ids)).bool()
    assert groups.log_ratio[desirable, 0].mean() > 0


def winners(batch):
    """The batch with the best candidates alone (and all candidates of unary data that are desirable)."""
    if batch.score is not None and batch.score.shape[1] == 1:
        batch = select(batch, [row for row, score in enumerate(batch.score[:, 0]) if score > 0])
    changes = {"score": None}
    for name in ("latents", "state", "action", "tokens", "attended", "completion"):
        if hasattr(batch, name):
            changes[name] = getattr(batch, name)[:, :1]
    return replace(batch, **changes)


def plain_loss(this: Case, best):
    """What a model of this kind is pretrained with, written without the library's ratios."""
    if this.method.ratio.domain is Domain.LANGUAGE:
        logits = this.policy(best.tokens[:, 0], best.attended[:, 0])[:, :-1].double()
        log = logits.log_softmax(-1).gather(2, best.tokens[:, 0, 1:, None]).squeeze(2)
        return -(log * best.completion[:, 0, 1:]).sum(1).mean()
    condition = {name: value[:, 0] for name, value in best.condition.items()}
    if isinstance(best, LatentBatch):
        clean = best.latents[:, 0]
        quantile = draws().uniform(best.ids, "timestep")
        noise = draws().normal(best.ids, clean.shape[1:], "noise")
        timestep = (quantile * 1000).long()
        alpha = this.policy.process.alphas_cumprod[timestep].float()[:, None, None, None]
        noisy = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
        output = this.policy(noisy, timestep, condition)
        return (output - (alpha.sqrt() * noise - (1 - alpha).sqrt() * clean)).pow(2).mean()
    sampler: DDIM = this.method.ratio.sampler
    unconditional = {name: value[:, 0] for name, value in best.unconditional.items()}
    output = sampler.predict(this.policy, best.state[:, 0], best.timestep, condition, unconditional)
    transition = sampler.transition(
        this.policy.process, output, best.state[:, 0], best.timestep, best.next_timestep
    )
    error = (best.action[:, 0] - transition.mean) / transition.deviation[:, None, None, None]
    return error.pow(2).mean()


def other_values(kind, value) -> list:
    """Legal values of an option, different from the given one."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, float):
        return [1.5 * value + 0.1]
    if isinstance(value, int):
        return [value + 5]
    if get_origin(kind) is not None or get_args(kind):
        return [choice for choice in get_args(kind) if choice != value]
    if dataclasses.is_dataclass(value):
        return [dataclasses.replace(value, **{f: v}) for f, v in nested_changes(value)]
    raise AssertionError(f"teach the law a value of type {type(value)}")


def nested_changes(value):
    hints = get_type_hints(type(value))
    for field in dataclasses.fields(value):
        for choice in other_values(hints[field.name], getattr(value, field.name)):
            yield field.name, choice


def test_every_option_changes_the_loss(method):
    this = case(method)
    # near the reference, so that a sharp objective is not saturated and a window option (clip) can bind
    base = run(this).loss
    for slot in ("ratio", "objective", "weight"):
        part = getattr(method, slot)
        hints = get_type_hints(type(part))
        for field in dataclasses.fields(part):
            for value in other_values(hints[field.name], getattr(part, field.name)):
                if (field.name, value) == ("clip", pytest.approx(0.25)):
                    value = 1e-4
                changed = replace(method, **{slot: replace(part, **{field.name: value})})
                moved = case(changed) if field.name == "sampler" else this
                loss = run(moved, method=changed).loss
                assert not torch.equal(loss, base), f"{slot}.{field.name} = {value} has no effect"


def test_the_order_of_the_batch_does_not_matter(method):
    this = case(method)
    base = run(this)
    order = [3, 0, 5, 1, 4, 2]
    shuffled = run(this, batch=select(this.batch, order))
    torch.testing.assert_close(shuffled.loss, base.loss)
    torch.testing.assert_close(shuffled.measured["margin/mean"], base.measured["margin/mean"][order])


def test_a_batch_in_pieces_has_the_gradient_of_the_whole(method):
    """In float64: a large beta multiplies what rounding leaves of a mean over the pieces."""
    this = case(method)
    this.policy = this.policy.double()
    run(this).loss.backward()
    whole = [p.grad.clone() for p in this.policy.parameters()]
    this.policy.zero_grad()
    models, groups = this.models(), method.ratio(this.models(), this.batch, draws())
    for start in (0, 2, 4):
        piece = select(this.batch, [start, start + 1])
        out = step(method, models, piece, draws(), pool=lambda _: groups.detach())
        (out.loss / 3).backward()
    assert whole[0].dtype is torch.float64
    torch.testing.assert_close([p.grad for p in this.policy.parameters()], whole, rtol=1e-6, atol=1e-8)


def test_half_precision_gives_a_finite_float32_loss(method):
    this = case(method)
    this.policy = this.policy.bfloat16()
    loss = run(this).loss
    assert loss.dtype is torch.float32
    assert torch.isfinite(loss)


def test_float64_by_another_route_gives_the_same_loss(method):
    """The whole step against float64 models: no float32 step may lose more than rounding."""
    this = case(method)
    base = run(this).loss
    this.policy = this.policy.double()
    torch.testing.assert_close(run(this).loss.double(), base.double(), rtol=2e-3, atol=1e-5)


def test_padded_candidates_change_nothing(method):
    if method.shape is not Shape.RANKED:
        assert Groups(log_policy=torch.zeros(2, 2)).last.tolist() == [1, 1]
        return
    this = case(method)
    base = run(this)
    latents, score = this.batch.latents, this.batch.score
    padded = replace(
        this.batch,
        latents=torch.cat([latents, torch.full_like(latents[:, :1], 9.0)], 1),
        score=torch.cat([score, score.new_full((len(score), 1), 0.99)], 1),
        valid=torch.tensor([[True] * 4 + [False]] * len(score)),
    )
    out = run(this, batch=padded)
    torch.testing.assert_close(out.loss, base.loss)
    torch.testing.assert_close(out.measured["margin/mean"], base.measured["margin/mean"])


def test_has_a_test_file_a_documentation_row_and_a_source(method):
    assert (REPOSITORY / "tests/methods" / f"test_{method.name.replace('-', '_')}.py").exists()
    assert f"`{method.name}`" in (REPOSITORY / "docs/methods.md").read_text()
    assert "arXiv" in method.source
