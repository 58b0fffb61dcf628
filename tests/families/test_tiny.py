"""Random weights: equal for equal seeds, and a language model of a few kilobytes."""

import torch

from penchant.families import tiny
from penchant.families.causal_lm import CausalLanguageModel


def test_the_language_model_is_the_same_for_the_same_seed():
    tokens = torch.tensor([[1, 2, 3, 4]])
    attended = torch.ones_like(tokens).bool()
    with torch.no_grad():
        first, again, other = (
            CausalLanguageModel(network=tiny.causal_lm(seed=seed))(tokens, attended) for seed in (0, 0, 1)
        )
    assert first.shape == (1, 4, 32)
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_it_is_causal_and_does_not_read_the_padding():
    model = CausalLanguageModel(network=tiny.causal_lm())
    tokens, attended = torch.tensor([[1, 2, 3, 4]]), torch.tensor([[True, True, True, False]])
    with torch.no_grad():
        torch.testing.assert_close(
            model(tokens, attended)[:, :3], model(torch.tensor([[1, 2, 3, 9]]), attended)[:, :3]
        )
    assert not model.network.training


def test_building_a_model_does_not_move_the_global_generator():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    tiny.causal_lm(seed=5)
    assert torch.equal(torch.get_rng_state(), before)
