r"""Training to the end on a vocabulary that can be enumerated: does each loss reach its own optimum?

Eight outcomes, one prompt, a table of logits as policy, a full batch of all ordered pairs y != y'. Each pair
stands in the batch in both directions, weighted by the exact probability that its first outcome wins. So the
loss is the population loss, not an estimate, and nothing but the optimum of the objective is tested.

**DPO.** With p*(y > y') = sigmoid(r(y) - r(y')), the loss of a pair is the cross-entropy between p* and
sigmoid(beta (h(y) - h(y'))), h = log pi - log pi_ref. It is least where beta (h(y) - h(y')) = r(y) - r(y')
for all pairs; the table can do that, so h = r / beta + const and pi = pi_ref exp(r / beta) / Z.

**IPO.** The loss of a pair is p* (m - c)^2 + (1 - p*) (m + c)^2 with m = h(y) - h(y') and c = 1 / (2 beta).
Its own minimum is m = c (2 p* - 1), but margins of three outcomes add up and these do not, so the optimum
is a least-squares fit: with mu the law from which y and y' are drawn independently, minimise sum_{y,y'}
mu(y) mu(y') (h(y) - h(y') - c (2 p*(y > y') - 1))^2. Setting the derivative by h(y) to 0 gives h(y) -
E_mu[h] = c E_{y' ~ mu}[2 p*(y > y') - 1], that is h(y) = p*(y > mu) / beta + const, with p*(y > mu) = E_{y'
~ mu}[p*(y > y')] and p*(y > y) = 1/2 (Azar et al. 2023, arXiv:2310.12036, eq. 7 and 17). The pairs y = y'
have margin 0 and pull nowhere, so leaving them out changes nothing. Unlike for DPO, mu matters: it is
tested with a uniform mu and with one that is not.

**Hinge** has no such optimum: for p* > 1/2, p* max(0, 1 - z) + (1 - p*) max(0, 1 + z) is least at z = 1
however sure the preference is. The margins 1 / beta of three ordered outcomes again do not add up, and the
fit depends on corners; only two outcomes are tested.
"""

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor, nn

from penchant.methods import catalog
from penchant.protocols import Models, TokenBatch
from penchant.randomness import Randomness
from penchant.slots.compose import step
from penchant.slots.objectives.pairwise import Hinge, Logistic, Squared

OUTCOMES = 8
REWARD = torch.tensor([1.0, 0.6, 0.3, 0.0, -0.1, -0.4, -0.8, -1.2], dtype=torch.float64)
REFERENCE = torch.tensor([0.05, 0.10, 0.05, 0.20, 0.25, 0.15, 0.15, 0.05], dtype=torch.float64)
UNIFORM = torch.full((OUTCOMES,), 1 / OUTCOMES, dtype=torch.float64)
UNEVEN = torch.tensor([0.60, 0.05, 0.05, 0.05, 0.05, 0.05, 0.05, 0.10], dtype=torch.float64)


class Table(nn.Module):
    """One logit for each outcome; the prompt is token 0 and the outcome the only token after it."""

    def __init__(self, probabilities: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(probabilities.log())

    def forward(self, tokens, attended):
        return self.logits.expand(*tokens.shape, -1)


@dataclass(frozen=True)
class Given:
    """Weight: the probability with which each row would be drawn, times the number of rows."""

    probability: Tensor
    reads = frozenset()

    def __call__(self, groups):
        return self.probability * len(self.probability)


def all_pairs(preferred: Tensor, law: Tensor) -> tuple[TokenBatch, Given]:
    """Every ordered pair (winner, loser) and how often it is seen.

    Args:
        preferred: p*(y > y').
        law: mu, from which both members of a pair are drawn independently; equal ones are drawn again.
    """
    rows = [(w, lo) for w in range(len(law)) for lo in range(len(law)) if w != lo]
    winner, loser = torch.tensor(rows).T
    # drawn as (w, l) or as (l, w), and w won
    probability = 2 * law[winner] * law[loser] * preferred[winner, loser]
    outcome = torch.stack([winner, loser], 1)
    tokens = torch.stack([torch.zeros_like(outcome), outcome], 2)
    batch = TokenBatch(
        ids=tuple(f"{w}-{lo}" for w, lo in rows),
        tokens=tokens,
        attended=torch.ones_like(tokens, dtype=torch.bool),
        completion=torch.tensor([False, True]).expand_as(tokens),
    )
    return batch, Given(probability / probability.sum())


def trained(objective, preferred: Tensor, *, reference=REFERENCE, law=UNIFORM) -> Tensor:
    """The policy's probabilities after training from the reference to the end, full batch."""
    batch, weight = all_pairs(preferred, law)
    method = replace(catalog.get("dpo"), objective=objective, weight=weight)
    policy, frozen = Table(reference), Table(reference)
    models = Models(policy=policy, reference=frozen)
    optimizer = torch.optim.LBFGS(
        policy.parameters(),
        max_iter=300,
        tolerance_grad=1e-11,
        tolerance_change=1e-14,
        line_search_fn="strong_wolfe",
    )

    def closure():
        optimizer.zero_grad()
        loss = step(method, models, batch, Randomness(run=0)).loss
        loss.backward()
        return loss

    optimizer.step(closure)
    return policy.logits.detach().softmax(0)


def bradley_terry(reward: Tensor) -> Tensor:
    return torch.sigmoid(reward[:, None] - reward[None, :])


def tilted(reference: Tensor, exponent: Tensor) -> Tensor:
    unnormalised = reference * exponent.exp()
    return unnormalised / unnormalised.sum()


def total_variation(p: Tensor, q: Tensor) -> float:
    return 0.5 * (p - q).abs().sum().item()


@pytest.mark.parametrize("beta", [0.2, 0.5, 1.0, 5.0])
@pytest.mark.parametrize("law", [UNIFORM, UNEVEN], ids=["uniform", "uneven"])
def test_dpo_reaches_the_kl_leashed_optimum(beta, law):
    """p_ref(y) exp(r(y) / beta) / Z, whatever law the pairs are drawn from."""
    reached = trained(Logistic(beta=beta), bradley_terry(REWARD), law=law)
    optimum = tilted(REFERENCE, REWARD / beta)
    assert total_variation(REFERENCE, optimum) > 0.03  # it had some way to go
    assert total_variation(reached, optimum) < 0.01


@pytest.mark.parametrize("beta", [0.2, 1.0])
def test_dpo_makes_beta_times_log_ratio_minus_reward_constant(beta):
    reached = trained(Logistic(beta=beta), bradley_terry(REWARD))
    constant = beta * (reached / REFERENCE).log() - REWARD
    assert (constant.max() - constant.min()).item() < 0.01


def test_the_reached_policy_is_the_best_at_reward_minus_beta_kl():
    """The optimum of the problem that DPO stands for, against policies near it and the two ends."""
    beta = 0.5

    def value(p):
        return ((p * REWARD).sum() - beta * (p * (p / REFERENCE).log()).sum()).item()

    reached = trained(Logistic(beta=beta), bradley_terry(REWARD))
    best = beta * (REFERENCE * (REWARD / beta).exp()).sum().log().item()  # beta log Z
    assert value(reached) == pytest.approx(best, abs=1e-4)
    for other in (0.3, 0.4, 0.7, 5.0):
        assert value(reached) > value(tilted(REFERENCE, REWARD / other))
    assert value(reached) > value(REFERENCE)


@pytest.mark.parametrize("beta", [0.2, 0.5, 1.0, 5.0])
@pytest.mark.parametrize("law", [UNIFORM, UNEVEN], ids=["uniform", "uneven"])
def test_ipo_reaches_its_own_optimum_which_depends_on_the_law_of_pairs(beta, law):
    preferred = bradley_terry(REWARD)
    reached = trained(Squared(beta=beta), preferred, law=law)
    optimum = tilted(REFERENCE, preferred @ law / beta)
    assert total_variation(reached, optimum) < 0.01


def test_ipo_and_dpo_have_different_optima():
    preferred = bradley_terry(REWARD)
    assert total_variation(trained(Squared(beta=0.5), preferred), tilted(REFERENCE, REWARD / 0.5)) > 0.05
    clear = bradley_terry(2 * REWARD)  # where sigmoid is far from a straight line
    uniform, uneven = (trained(Squared(beta=0.2), clear, law=law) for law in (UNIFORM, UNEVEN))
    assert total_variation(uniform, uneven) > 0.04


def test_ipo_stays_finite_on_preferences_without_exception():
    """Where the winner always wins, DPO's margin has no end; IPO's stops at 1 / (2 beta) for two outcomes."""
    always = torch.tensor([[0.5, 1.0], [0.0, 0.5]], dtype=torch.float64)
    half = torch.tensor([0.5, 0.5], dtype=torch.float64)
    reached = trained(Squared(beta=0.5), always, reference=half, law=half)
    assert (reached[0] / reached[1]).log().item() == pytest.approx(1.0, abs=1e-3)
    without_end = trained(Logistic(beta=0.5), always, reference=half, law=half)
    assert (without_end[0] / without_end[1]).log().item() > 10


def test_hinge_on_two_outcomes_goes_to_margin_1_over_beta_however_sure_the_preference():
    half = torch.tensor([0.5, 0.5], dtype=torch.float64)
    for sure in (0.6, 0.9):
        preferred = torch.tensor([[0.5, sure], [1 - sure, 0.5]], dtype=torch.float64)
        reached = trained(Hinge(beta=0.5), preferred, reference=half, law=half)
        assert (reached[0] / reached[1]).log().item() == pytest.approx(2.0, abs=0.02)


def test_label_smoothing_moves_the_optimum_towards_the_reference():
    """cDPO fits the smoothed probability p = (1 - e) p* + e (1 - p*)."""
    reward = torch.tensor([0.7, -0.7], dtype=torch.float64)
    half = torch.tensor([0.5, 0.5], dtype=torch.float64)
    preferred = bradley_terry(reward)
    reached = trained(Logistic(beta=1.0, label_smoothing=0.1), preferred, reference=half, law=half)
    smoothed = 0.9 * preferred[0, 1] + 0.1 * preferred[1, 0]
    assert (reached[0] / reached[1]).log().item() == pytest.approx(torch.logit(smoothed).item(), abs=1e-3)
