"""The score cache: what is looked up, what is asked for, and what may not be stored."""

from dataclasses import dataclass, field

import pytest
import torch

from penchant.errors import RewardError
from penchant.protocols import Reward
from penchant.rewards._cache import Cached, ScoreCache, cached
from penchant.rewards.combined import Combined, Part
from penchant.training.live_bytes import LiveBytes


@dataclass
class Counting:
    """Mean of the red channel times 100 plus the length of the prompt; remembers how many it scored."""

    name: str = "counting"
    unit: str = "points"
    version: str = "1"
    judges: bool = True
    factor: float = 1.0
    scored: list = field(default_factory=list)

    def __call__(self, images, prompts):
        self.scored.append(len(images))
        lengths = torch.tensor([len(prompt) for prompt in prompts])
        return (100 * images[:, 0].mean(dim=(1, 2)) + lengths) * self.factor


@pytest.fixture
def cache(tmp_path):
    return ScoreCache(tmp_path / "deep" / "scores.sqlite")


@pytest.fixture
def images():
    return torch.rand(20, 3, 6, 7, generator=torch.Generator().manual_seed(0))


PROMPTS = [f"{'x' * (i % 3)}" for i in range(20)]


def test_nothing_is_scored_twice_also_by_another_process_later(cache, images):
    counting = Counting()
    first = cached(counting, cache)(images, PROMPTS)
    assert counting.scored == [16, 4]
    again = Counting()
    torch.testing.assert_close(cached(again, ScoreCache(cache.path))(images, PROMPTS), first, rtol=0, atol=0)
    assert again.scored == []
    rounded = (images * 255).round() / 255
    torch.testing.assert_close(first, Counting()(rounded, PROMPTS))


def test_many_images_are_rounded_a_few_at_a_time(cache):
    many = torch.rand(320, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with LiveBytes() as live:
        given = live.count([many])
        scores = cached(Counting(), cache)(many, ["a prompt"] * 320)
    assert live.peak - given < many.nbytes / 2
    torch.testing.assert_close(scores, Counting()((many * 255).round() / 255, ["a prompt"] * 320))


def test_equal_images_in_one_batch_are_asked_for_once(cache, images):
    counting = Counting()
    batch = images[[0, 1, 0, 0]]
    scores = cached(counting, cache)(batch, ["a", "a", "a", "bb"])
    assert counting.scored == [3]
    assert scores[0] == scores[2] != scores[3]


@pytest.mark.parametrize("change", [{"name": "other"}, {"version": "2"}])
def test_another_name_or_version_is_another_score(cache, images, change):
    cached(Counting(), cache)(images[:2], PROMPTS[:2])
    counting = Counting(**change)
    cached(counting, cache)(images[:2], PROMPTS[:2])
    assert counting.scored == [2]


def test_the_shape_is_part_of_the_image(cache, images):
    counting = Counting()
    reward = cached(counting, cache)
    reward(images[:1], ["a"])
    reward(images[:1].reshape(1, 3, 7, 6), ["a"])
    assert counting.scored == [1, 1]


def test_what_was_scored_before_a_failure_is_kept(cache, images):
    class Failing(Counting):
        def __call__(self, images, prompts):
            if self.scored:
                raise RewardError("down")
            return super().__call__(images, prompts)

    with pytest.raises(RewardError, match="down"):
        cached(Failing(), cache)(images, PROMPTS)
    counting = Counting()
    cached(counting, cache)(images, PROMPTS)
    assert counting.scored == [4]


def test_the_parts_of_a_combination_share_the_cache_with_others(cache, images):
    counting = Counting()
    cached(counting, cache)(images, PROMPTS)
    combined = cached(Combined(parts=(Part(reward=counting, weight=2.0, mean=1.0, std=4.0),)), cache)
    scores = combined(images, PROMPTS)
    assert counting.scored == [16, 4]
    torch.testing.assert_close(scores, (cached(counting, cache)(images, PROMPTS) - 1) / 2)


def test_it_is_the_reward_it_stands_for(cache):
    counting = Counting()
    reward = Cached(counting, cache)
    assert isinstance(reward, Reward)
    for name in ("name", "unit", "version", "judges"):
        assert getattr(reward, name) == getattr(counting, name)


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (torch.tensor([1.0, float("nan")]), "scores must be finite numbers, got nan for image 2 of 2."),
        (torch.tensor([1.0]), "must give one score per image, got 1 for 2."),
    ],
)
def test_what_is_no_score_is_not_stored(cache, images, answer, sentence):
    class Broken(Counting):
        def __call__(self, images, prompts):
            return answer

    with pytest.raises(RewardError) as caught:
        cached(Broken(), cache)(images[:2], ["a", "b"])
    assert str(caught.value) == f"reward counting: {sentence}"
    assert not cache.path.exists()


def test_a_file_that_is_no_cache_is_named(cache, images):
    cache.path.parent.mkdir()
    cache.path.write_text("no database, but long enough to be taken for one" * 10)
    with pytest.raises(
        RewardError, match="scores.sqlite: cannot be used for scores .*Remove it, or name another"
    ):
        cached(Counting(), cache)(images, PROMPTS)
