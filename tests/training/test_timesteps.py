"""Laws of the timesteps: every mean stays what independent draws give, with less noise, however batches are
split."""

import math

import pytest
import torch
from tests import small
from tests.slots.scripted import SD_ALPHAS

from penchant.diffusion.flow import LogitNormalLaw, RectifiedFlow
from penchant.diffusion.schedule import VariancePreserving
from penchant.randomness import Randomness
from penchant.training.loop import Record
from penchant.training.timesteps import Antithetic, DrawnTimesteps, Importance, Stratified

from .test_source import source

SD = VariancePreserving(alphas_cumprod=SD_ALPHAS, prediction="epsilon")
FLOW = RectifiedFlow(law=LogitNormalLaw(), shift=3.0)
SIZE = 16


def learnt(process):
    law = Importance(process)
    record = Record(step=1, metrics={f"gradient/factor/t{q}": f for q, f in enumerate((0.5, 0.4, 0.1, 0.01))})
    for _ in range(60):
        law.follow(record)
    return law


LAWS = {
    "stratified": Stratified(),
    "antithetic": Antithetic(),
    "importance": learnt(SD),
    "importance of a flow": learnt(FLOW),
}


def batch_means(law, steps):
    """Mean of a monotone function of the quantile over each of many global batches; its integral is e - 1."""
    means = []
    for step in range(steps):
        ids = [f"{step}/{n}" for n in range(SIZE)]
        quantile, weight = law(ids, range(SIZE), SIZE, Randomness(run=1), step)
        assert ((quantile >= 0) & (quantile < 1)).all()
        value = quantile.double().exp()
        means.append((value if weight is None else weight * value).mean())
    return torch.stack(means)


@pytest.mark.parametrize("name", LAWS)
def test_means_are_unbiased(name):
    means = batch_means(LAWS[name], 150)
    error = means.std().item() / math.sqrt(len(means))
    assert abs(means.mean().item() - (math.e - 1)) < 4 * error
    assert error < 0.05  # or the line above would say nothing
    independent = 0.242036 / SIZE  # variance of e^q: (e^2 - 1) / 2 - (e - 1)^2
    less = {"stratified": 100, "antithetic": 10}.get(name)
    assert less is None or means.var().item() < independent / less


def test_importance_draws_where_the_gradient_is_and_bounds_the_weights():
    law = learnt(SD)
    quantile, weight = law([str(n) for n in range(4000)], range(4000), 4000, Randomness(run=0), 0)
    seen = torch.bincount((quantile * 4).long(), minlength=4) / 4000
    # factors 0.4777, 0.4046, 0.1184, 0.0326 after 60 steps of decay 0.95; mean 0.2583
    factors = [f + 0.95**60 * (0.5 - f) for f in (0.5, 0.4, 0.1, 0.01)]
    mean = sum(factors) / 4
    expected = [(0.2 + 0.8 * f / mean) / 4 for f in factors]
    assert seen.tolist() == pytest.approx(expected, abs=0.025)
    assert weight.max().item() <= 1 / 0.2
    assert weight[(quantile * 4).long() == 3][0].item() == pytest.approx(0.25 / expected[3], rel=1e-5)


def test_importance_passes_over_quarters_that_the_model_never_sees():
    law = learnt(VariancePreserving(alphas_cumprod=SD_ALPHAS, prediction="epsilon", trained=(10, 900)))
    quantile, weight = law([str(n) for n in range(200)], range(200), 200, Randomness(run=0), 0)
    seen = (quantile >= 0.5).double().mean().item()
    assert 0 < seen < 0.4  # the noisy one of the two is learnt, and drawn less
    assert (quantile.mul(2).long().bincount(weights=weight.double()) / 200).tolist() == pytest.approx(
        [0.5, 0.5], abs=0.1
    )


@pytest.mark.parametrize("law", [Stratified(), Antithetic(), learnt(SD)], ids=["strata", "mirror", "learnt"])
def test_neither_pieces_nor_processes_change_a_timestep(law):
    def drawn(**split):
        inner = source(**split)
        outer = DrawnTimesteps(inner, law)
        batch = outer(1)
        return {
            name: (
                piece.quantile[row].item(),
                None if piece.importance is None else piece.importance[row].item(),
            )
            for piece in batch.micro
            for row, name in enumerate(piece.ids)
        }

    whole = drawn()
    assert len(whole) == 4 and len({quantile for quantile, _ in whole.values()}) == 4
    assert drawn(micro_batch_size=1) == drawn(micro_batch_size=3) == whole
    assert drawn(process=0, num_processes=2) | drawn(process=1, num_processes=2) == whole


def test_mirrored_twos_and_strata():
    ids = [str(n) for n in range(5)]
    mirrored, _ = Antithetic()(ids, range(5), 5, Randomness(run=0), 7)
    assert (mirrored[0] + mirrored[1]).item() == pytest.approx(1)
    assert (mirrored[2] + mirrored[3]).item() == pytest.approx(1)
    again, _ = Antithetic()(ids, range(5), 5, Randomness(run=0), 8)
    assert not torch.equal(mirrored, again)
    strata, _ = Stratified()(ids, range(5), 5, Randomness(run=0), 0)
    assert (strata * 5).long().tolist() == [0, 1, 2, 3, 4]


def test_a_law_that_learns_goes_on_from_a_checkpoint(options, tmp_path):
    def run(name, *, steps, draw="importance", **options_of_train):
        changes = {"training.learning_rate": 0.03, "objective": {"beta": 20_000}, "noise.draw": draw}
        raw = options(**changes, **{"training.steps": steps, "data.heldout_split": None})
        small.train(raw, output=tmp_path / name, **options_of_train)
        return small.metrics(tmp_path / name)

    once = run("once", steps=3)
    assert once != run("plain", steps=3, draw="independent")
    run("twice", steps=2)
    assert run("twice", steps=3, resume=True) == once


@pytest.mark.parametrize(("draw", "law"), [("stratified", Stratified), ("antithetic", Antithetic)])
def test_a_run_draws_as_it_says(options, draw, law):
    parts = small.assembled(options(**{"noise.draw": draw}))
    assert isinstance(parts.sources.train, DrawnTimesteps) and isinstance(parts.sources.train.law, law)
    assert all(piece.quantile is not None for piece in parts.sources.train(0).micro)


def test_the_loss_of_a_group_is_multiplied_by_its_importance(options):
    from dataclasses import replace

    from penchant.slots.compose import step

    parts = small.assembled(options())
    batch = parts.sources.train(0)
    piece = batch.micro[0]
    weight = torch.arange(1.0, 1 + len(piece.ids))
    plain = step(parts.method, parts.models, piece, batch.draws).measured["loss"]
    weighed = step(parts.method, parts.models, replace(piece, importance=weight), batch.draws)
    assert torch.equal(weighed.measured["loss"], weight * plain)
    assert weighed.loss.item() == pytest.approx((weight * plain).mean().item())


def test_without_a_second_group_there_is_nothing_to_mirror():
    quantile, weight = Antithetic()(["a"], range(1), 1, Randomness(run=0), 0)
    assert weight is None and 0 <= quantile.item() < 1
