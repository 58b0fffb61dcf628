"""Log-probabilities of completions as log-ratios."""

import torch
from tests.slots.scripted import DRAWS, given_log_probs

from penchant.protocols import Models
from penchant.slots.ratios.tokens import Tokens

CASE = ([[-10.0, -12.0]], [[-11.0, -11.5]], [[5, 4]])


def test_sum_over_completion_tokens():
    models, batch, _ = given_log_probs(*CASE)
    groups = Tokens()(models, batch, DRAWS)
    torch.testing.assert_close(groups.log_policy, torch.tensor([[-10.0, -12.0]]).double())
    torch.testing.assert_close(groups.log_ratio, torch.tensor([[1.0, -0.5]]).double())
    assert groups.time is groups.log_snr is groups.error is None


def test_mean_over_completion_tokens():
    models, batch, _ = given_log_probs(*CASE)
    groups = Tokens(reduction="mean")(models, batch, DRAWS)
    torch.testing.assert_close(groups.log_policy, torch.tensor([[-2.0, -3.0]]).double())


def test_a_completion_without_tokens_counts_0_and_not_nan():
    models, batch, _ = given_log_probs([[-10.0, -12.0]], [[-11.0, -11.5]], [[5, 4]])
    batch.completion[0, 1] = False
    for reduction in ("sum", "mean"):
        assert Tokens(reduction=reduction)(models, batch, DRAWS).log_policy[0, 1].item() == 0


def test_the_reference_gets_no_gradient_and_may_be_absent():
    models, batch, leaf = given_log_probs(*CASE)
    groups = Tokens()(models, batch, DRAWS)
    assert not groups.log_reference.requires_grad
    groups.log_policy.sum().backward()
    torch.testing.assert_close(leaf.grad, torch.ones_like(leaf))
    assert Tokens()(Models(policy=models.policy), batch, DRAWS).log_reference is None
