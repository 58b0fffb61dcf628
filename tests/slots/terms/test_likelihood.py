"""Terms that keep the winners likely, by hand; every option of theirs changes the loss."""

from dataclasses import replace

import pytest
import torch
from tests.laws.cases import case
from tests.slots.scripted import DRAWS, given_errors, given_log_probs

from penchant.methods import catalog
from penchant.protocols import Models
from penchant.slots.compose import step
from penchant.slots.ratios.denoising import Denoising
from penchant.slots.ratios.tokens import Tokens
from penchant.slots.terms.likelihood import WinnerKept, WinnerLikelihood


def term(term, ratio, made):
    models, batch, leaf = made
    value = term(models, batch, ratio(models, batch, DRAWS), DRAWS)
    return value, leaf


def test_likelihood_of_the_winner_is_its_scaled_error():
    value, leaf = term(
        WinnerLikelihood(coefficient=4.0), Denoising(), given_errors([[0.10, 0.12]], [[0.11, 0.115]])
    )
    assert value.item() == pytest.approx(4 * 0.5 * 0.10, abs=1e-12)
    value.sum().backward()
    assert leaf.grad[0].tolist() == pytest.approx([2.0, 0.0])


def test_likelihood_of_a_winning_text_is_its_negative_log_probability():
    value, _ = term(
        WinnerLikelihood(coefficient=0.5),
        Tokens(),
        given_log_probs([[-10.0, -12.0]], [[-11.0, -11.5]], [[5, 4]]),
    )
    assert value.item() == pytest.approx(5.0, abs=1e-9)


def test_a_winner_that_stays_likely_costs_nothing():
    value, leaf = term(
        WinnerKept(coefficient=10.0), Denoising(), given_errors([[0.10, 0.12]], [[0.11, 0.115]])
    )
    value.sum().backward()
    assert value.item() == 0
    assert leaf.grad.abs().sum().item() == 0


def test_a_winner_that_got_less_likely_costs_what_it_lost():
    value, leaf = term(
        WinnerKept(coefficient=10.0), Denoising(), given_errors([[0.15, 0.30]], [[0.11, 0.115]])
    )
    value.sum().backward()
    assert value.item() == pytest.approx(10 * 0.5 * 0.04, abs=1e-12)
    assert leaf.grad[0].tolist() == pytest.approx([5.0, 0.0])


@pytest.mark.parametrize("kind", [WinnerLikelihood, WinnerKept])
def test_an_undesirable_sample_is_no_winner(kind):
    value, leaf = term(
        kind(coefficient=10.0),
        Denoising(),
        given_errors([[0.15], [0.15]], [[0.11], [0.11]], score=[[1.0], [-1.0]]),
    )
    value.sum().backward()
    assert value[0].item() > 0 == value[1].item()
    assert leaf.grad[0].item() > 0 == leaf.grad[1].item()


@pytest.mark.parametrize("kind", [WinnerLikelihood, WinnerKept])
@pytest.mark.parametrize("name", catalog.names())
def test_every_option_changes_the_loss_of_every_method(kind, name):
    this = case(catalog.get(name))
    # a reference that explains the winners better than the policy, so that keeping them costs something
    reference = this.models(moved=False).reference
    optimizer = torch.optim.Adam(reference.parameters(), lr=1e-2)
    for _ in range(10):
        optimizer.zero_grad()
        groups = this.method.ratio(Models(policy=reference), this.batch, DRAWS)
        (-groups.log_policy[:, 0].mean()).backward()
        optimizer.step()
    models = Models(policy=this.policy, reference=reference)
    losses = [step(this.method, models, this.batch, DRAWS).loss.item()]
    for coefficient in (1.0, 2.0):
        method = replace(this.method, terms=(kind(coefficient=coefficient),))
        losses.append(step(method, models, this.batch, DRAWS).loss.item())
    assert losses[0] < losses[1] < losses[2]
    assert losses[2] - losses[0] == pytest.approx(2 * (losses[1] - losses[0]), rel=1e-3)


@pytest.mark.parametrize("kind", [WinnerLikelihood, WinnerKept])
def test_a_coefficient_that_is_not_positive_is_refused(kind):
    with pytest.raises(ValueError, match="coefficient must be > 0, got 0"):
        kind(coefficient=0.0)
