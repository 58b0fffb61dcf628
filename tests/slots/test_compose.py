"""What the step adds up, what it logs, and the sentences with which it refuses slots that do not fit."""

import math
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.slots.scripted import DRAWS, given_errors, given_log_probs

from penchant.errors import CompositionError
from penchant.log import METRICS
from penchant.methods import catalog
from penchant.methods.diffusion_kto import HumanUtility
from penchant.methods.mapo import WinnerAndMargin
from penchant.protocols import Evidence, Groups, Models
from penchant.shapes import Shape
from penchant.slots.compose import Method, gradient_factor, preference_margin, step, winner_and_loser
from penchant.slots.objectives.pairwise import Hinge, Logistic, Squared
from penchant.slots.ratios.denoising import Denoising, DriftFromReference
from penchant.slots.ratios.stepwise import Stepwise
from penchant.slots.ratios.tokens import Tokens
from penchant.slots.terms.likelihood import WinnerKept, WinnerLikelihood
from penchant.slots.weights.noise_level import NoiseLevel, NoiseWindow
from penchant.slots.weights.uniform import Uniform

PAIR = dict(source="test", shape=Shape.PAIR)


def compose(**slots):
    return Method(**{"name": "mine", **PAIR, "weight": Uniform(), **slots})


def refusal(**slots):
    with pytest.raises(CompositionError) as caught:
        compose(**slots)
    return str(caught.value)


def test_an_objective_on_errors_does_not_fit_tokens():
    assert refusal(ratio=Tokens(), objective=WinnerAndMargin()) == (
        "method 'mine': WinnerAndMargin reads the denoising error; Tokens does not give it. Tokens gives: "
        "log-likelihood, log-ratio to a reference. Take a ratio that gives the denoising error, or a slot "
        "that reads one of these."
    )


def test_an_objective_on_errors_does_not_fit_sampled_steps_or_drift():
    assert "Stepwise gives: log-likelihood, log-ratio to a reference, noise level." in refusal(
        ratio=Stepwise(), objective=WinnerAndMargin()
    )
    assert "DriftFromReference gives: log-ratio to a reference, noise level." in refusal(
        ratio=DriftFromReference(), objective=WinnerAndMargin()
    )


def test_an_objective_for_labels_is_not_for_pairs():
    assert refusal(ratio=Denoising(), objective=HumanUtility(beta=1.0)) == (
        "method 'mine': objective HumanUtility takes unary data, the method declares pair. Take an objective "
        "for pair data, or declare shape unary."
    )


@pytest.mark.parametrize("weight", [NoiseLevel(), NoiseWindow()])
def test_text_has_no_noise_level(weight):
    name = type(weight).__name__
    assert refusal(ratio=Tokens(), objective=Logistic(beta=0.1), weight=weight) == (
        f"method 'mine': {name} reads the noise level; Tokens does not give it. Tokens gives: "
        "log-likelihood, log-ratio to a reference. Take a ratio that gives the noise level, or a slot that "
        "reads one of these."
    )


@dataclass(frozen=True)
class Absolute:
    """A term that reads a likelihood, which a denoising error is not."""

    reads = frozenset({Evidence.LIKELIHOOD})

    def __call__(self, models, batch, groups, draws):
        return groups.log_policy[:, 0]


def test_terms_are_checked_like_all_slots():
    sentence = refusal(ratio=Denoising(), objective=Logistic(beta=0.1), terms=(Absolute(),))
    assert sentence.startswith(
        "method 'mine': Absolute reads the log-likelihood; Denoising does not give it."
    )


def test_a_changed_slot_is_checked_again():
    with pytest.raises(CompositionError, match="takes unary data"):
        replace(catalog.get("dpo"), objective=HumanUtility(beta=1.0))


def test_a_missing_reference_is_named():
    models, batch, _ = given_errors([[0.1, 0.2]])
    with pytest.raises(CompositionError) as caught:
        step(catalog.get("diffusion-dpo"), models, batch, DRAWS)
    assert str(caught.value) == "method 'diffusion-dpo': needs a reference model, got none."


def test_a_reference_is_needed_by_whatever_slot_reads_a_ratio():
    needs = {name: catalog.get(name).needs_reference for name in catalog.names()}
    assert needs.pop("mapo") is False
    assert set(needs.values()) == {True}
    kept = replace(catalog.get("mapo"), terms=(WinnerKept(coefficient=1.0),))
    assert kept.needs_reference
    liked = replace(catalog.get("mapo"), terms=(WinnerLikelihood(coefficient=1.0),))
    assert not liked.needs_reference


def test_a_reference_that_no_slot_reads_is_not_called():
    models, batch, _ = given_errors([[0.1, 0.2]])

    def forbidden(*_):
        raise AssertionError("called")

    step(catalog.get("mapo"), Models(policy=models.policy, reference=forbidden), batch, DRAWS)


def test_the_loss_is_weight_times_objective_plus_terms_then_one_mean():
    """Two pairs; Delta = 0.015 and -0.020; beta 200; term 3 * (error of the winner) / 2; own weights."""

    @dataclass(frozen=True)
    class Given:
        reads = frozenset()

        def __call__(self, groups):
            return torch.tensor([2.0, 0.5], dtype=torch.float64)

    models, batch, _ = given_errors([[0.10, 0.12], [0.20, 0.18]], [[0.11, 0.115], [0.19, 0.19]])
    method = compose(
        ratio=Denoising(),
        objective=Logistic(beta=200.0),
        weight=Given(),
        terms=(WinnerLikelihood(coefficient=3.0),),
    )
    out = step(method, models, batch, DRAWS)
    objective = [math.log1p(math.exp(-1.5)), math.log1p(math.exp(2.0))]
    first, second = 2 * objective[0] + 3 * 0.05, 0.5 * objective[1] + 3 * 0.10
    assert out.measured["loss"].tolist() == pytest.approx([first, second], abs=1e-6)
    assert out.loss.item() == pytest.approx((first + second) / 2, abs=1e-9)  # not over the sum of weights


def test_weights_carry_no_gradient():
    @dataclass(frozen=True)
    class OnPolicy:
        reads = frozenset()

        def __call__(self, groups):
            return groups.log_policy[:, 0].exp()

    models, batch, leaf = given_errors([[0.10, 0.12]], [[0.11, 0.115]])
    weighted = compose(ratio=Denoising(), objective=Logistic(beta=200.0), weight=OnPolicy())
    step(weighted, models, batch, DRAWS).loss.backward()
    assert leaf.grad[0].tolist() == pytest.approx(
        [18.242552 * math.exp(-0.05) * s for s in (1, -1)], abs=1e-5
    )


def test_every_number_of_a_step_is_listed_with_its_unit():
    models, batch, _ = given_errors([[0.10, 0.12]], [[0.11, 0.115]])
    out = step(catalog.get("diffusion-dpo"), models, batch, DRAWS)
    assert out.measured.keys() <= METRICS.keys()
    assert all(value.shape == (1,) and not value.requires_grad for value in out.measured.values())


@given(st.floats(-5, 5), st.floats(0.01, 3))
def test_gradient_factor_of_the_logistic_loss_is_sigmoid_of_minus_z(margin, beta):
    zero = torch.zeros((1, 2), dtype=torch.float64)
    groups = Groups(log_policy=torch.tensor([[margin, 0.0]], dtype=torch.float64), log_reference=zero)
    factor = gradient_factor(Logistic(beta=beta), groups)
    assert factor.item() == pytest.approx(1 / (1 + math.exp(beta * margin)), rel=1e-9)


def test_gradient_factor_of_the_other_pair_losses():
    groups = Groups(
        log_policy=torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), log_reference=torch.zeros((2, 2))
    )  # margins 1 and -1
    assert gradient_factor(Hinge(beta=2.0), groups).tolist() == [0.0, 0.5]  # learnt; still pulling in full
    # 2 (m - 1 / (2 beta)) over its value at 0, halved: 0.5 |m - 0.25| / 0.25
    assert gradient_factor(Squared(beta=2.0), groups).tolist() == pytest.approx([1.5, 2.5])


def test_gradient_factor_does_not_touch_the_gradients_of_the_step():
    models, batch, leaf = given_errors([[0.10, 0.12]], [[0.11, 0.115]])
    out = step(catalog.get("diffusion-dpo"), models, batch, DRAWS)
    assert leaf.grad is None
    out.loss.backward()
    assert leaf.grad is not None


def test_half_a_point_for_a_tie_in_the_implicit_accuracy():
    models, batch, _ = given_errors(
        [[0.1, 0.2], [0.2, 0.1], [0.1, 0.1]], [[0.15, 0.15], [0.15, 0.15], [0.1, 0.1]]
    )
    out = step(catalog.get("diffusion-dpo"), models, batch, DRAWS)
    assert out.measured["margin/positive"].tolist() == [1.0, 0.0, 0.5]


def test_winner_and_loser_skip_padding():
    groups = Groups(
        log_policy=torch.tensor([[3.0, 2.0, 9.0], [3.0, 2.0, 1.0]]),
        valid=torch.tensor([[True, True, False], [True, True, True]]),
    )
    winner, loser = winner_and_loser(Shape.RANKED, groups, groups.log_policy)
    assert winner.tolist() == [3.0, 3.0]
    assert loser.tolist() == [2.0, 1.0]
    assert preference_margin(Shape.RANKED, groups).tolist() == [1.0, 2.0]


def test_a_single_sample_is_winner_or_loser_by_its_label():
    groups = Groups(log_policy=torch.tensor([[0.3], [0.4]]), score=torch.tensor([[1.0], [-1.0]]))
    winner, loser = winner_and_loser(Shape.UNARY, groups, groups.log_policy)
    assert winner[0] == pytest.approx(0.3) and winner[1].isnan()
    assert loser[0].isnan() and loser[1] == pytest.approx(0.4)
    assert preference_margin(Shape.UNARY, groups).tolist() == pytest.approx([0.3, -0.4])


def test_the_whole_batch_comes_from_the_pool_and_only_where_it_is_wanted():
    models, batch, _ = given_errors([[0.10], [0.12]], [[0.11], [0.11]], score=[[1.0], [-1.0]])
    seen = []

    def pool(groups):
        seen.append(groups)
        return groups

    step(catalog.get("diffusion-kto"), models, batch, DRAWS, pool=pool)
    assert len(seen) == 1
    assert not seen[0].log_policy.requires_grad
    models, batch, _ = given_errors([[0.10, 0.12]], [[0.11, 0.11]])
    step(catalog.get("diffusion-dpo"), models, batch, DRAWS, pool=pool)
    assert len(seen) == 1


def test_text_has_neither_errors_nor_a_noise_level():
    models, batch, _ = given_log_probs([[-10.0, -12.0]], [[-11.0, -11.5]], [[5, 4]])
    out = step(catalog.get("dpo"), models, batch, DRAWS)
    assert out.time is None
    assert not {name for name in out.measured if name.startswith("error/")}
