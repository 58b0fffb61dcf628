"""Draws are keyed by run, epoch, example and purpose, and by nothing else."""

import statistics

import torch
from hypothesis import given
from hypothesis import strategies as st

from penchant.randomness import Randomness

names = st.lists(st.text(min_size=1, max_size=4), min_size=1, max_size=5, unique=True)


@given(names, st.randoms(use_true_random=False))
def test_batch_order_and_batch_split_do_not_change_a_draw(examples, random):
    draws = Randomness(run=3, epoch=1)
    together = dict(zip(examples, draws.normal(examples, (2,), "noise"), strict=True))
    shuffled = list(examples)
    random.shuffle(shuffled)
    for name, value in zip(shuffled, draws.normal(shuffled, (2,), "noise"), strict=True):
        assert torch.equal(value, together[name])
    for name in examples:
        assert torch.equal(draws.normal([name], (2,), "noise")[0], together[name])


def test_each_part_of_the_key_counts():
    def draw(run=1, epoch=0, example="a", purpose="noise"):
        return Randomness(run=run, epoch=epoch).uniform([example], purpose).item()

    others = [draw(run=2), draw(epoch=1), draw(example="b"), draw(purpose="timestep")]
    assert len({draw(), *others}) == 5
    assert draw() == draw()


def test_neighbouring_keys_are_independent():
    """Same distribution, no correlation: an epoch's draws are not the last one's moved by a place."""
    names = [str(index) for index in range(2000)]
    one = Randomness(run=1, epoch=0).normal(names, (), "noise").double()
    two = Randomness(run=1, epoch=1).normal(names, (), "noise").double()
    assert abs(one.mean().item()) < 0.07 and abs(one.std().item() - 1) < 0.05
    assert abs(torch.corrcoef(torch.stack([one, two]))[0, 1].item()) < 0.07
    assert abs(torch.corrcoef(torch.stack([one[1:], one[:-1]]))[0, 1].item()) < 0.07


def test_uniform_draws_are_in_0_to_1():
    values = Randomness(run=1).uniform([str(index) for index in range(500)], "timestep").tolist()
    assert min(values) >= 0 and max(values) < 1
    assert abs(statistics.mean(values) - 0.5) < 0.05


def test_drawing_leaves_the_global_generator_alone():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    Randomness(run=1).normal(["a"], (4,), "noise")
    assert torch.equal(torch.rand(3), expected)


def test_a_permutation_is_one_and_repeats():
    draws = Randomness(run=1)
    assert sorted(draws.permutation(10, "order")) == list(range(10))
    assert draws.permutation(10, "order") == draws.permutation(10, "order")
    assert draws.permutation(10, "order") != Randomness(run=1, epoch=1).permutation(10, "order")
