"""Log-probabilities of tokens: the shift, the mask, the precision."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from penchant.language.logprobs import completion_log_probs, token_log_probs


@given(st.integers(0, 1000), st.integers(1, 3), st.integers(2, 6))
def test_position_l_of_the_logits_predicts_token_l_plus_1(seed, rows, length):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn((rows, length, 5), generator=generator, dtype=torch.float64)
    tokens = torch.randint(0, 5, (rows, length), generator=generator)
    log_probs = token_log_probs(logits, tokens)
    expected = logits.log_softmax(2)
    for row in range(rows):
        assert log_probs[row, 0].item() == 0
        for place in range(1, length):
            wanted = expected[row, place - 1, tokens[row, place]].item()
            assert log_probs[row, place].item() == pytest.approx(wanted, abs=1e-12)


def test_by_hand():
    logits = torch.tensor([[[0.0, math.log(3.0)], [5.0, 5.0]]])  # p = (1/4, 3/4), then (1/2, 1/2)
    log_probs = token_log_probs(logits, torch.tensor([[0, 1]]))
    assert log_probs[0].tolist() == pytest.approx([0.0, math.log(0.75)], abs=1e-6)


def test_half_precision_logits_are_reduced_in_float32():
    logits = torch.randn((1, 50, 100), generator=torch.Generator().manual_seed(0)).bfloat16()
    tokens = torch.arange(50)[None]
    log_probs = token_log_probs(logits, tokens)
    assert log_probs.dtype is torch.float32
    exact = token_log_probs(logits.double(), tokens)
    torch.testing.assert_close(log_probs.double(), exact, rtol=1e-5, atol=1e-5)


def test_only_the_completion_counts_and_the_rest_counts_exactly_0():
    log_probs = torch.tensor([[0.0, -1.0, -2.0, -4.0], [0.0, -1.0, -math.inf, -8.0]])
    completion = torch.tensor([[False, False, True, True], [False, True, False, True]])
    assert completion_log_probs(log_probs, completion).tolist() == [-6.0, -9.0]


def test_a_masked_token_gets_no_gradient():
    log_probs = torch.tensor([[0.0, -1.0, -2.0]], requires_grad=True)
    completion_log_probs(log_probs, torch.tensor([[False, False, True]])).sum().backward()
    assert log_probs.grad.tolist() == [[0.0, 0.0, 1.0]]
