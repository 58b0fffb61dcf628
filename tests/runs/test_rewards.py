"""Rewards as a run file names them, and every sentence about a wrong name or option."""

import pytest
import torch

from penchant.errors import ConfigError
from penchant.rewards.combined import Combined, Part
from penchant.rewards.compressibility import Compressibility
from penchant.rewards.style import Style
from penchant.runs.rewards import reward_of, rewards_of, typed

PARTS = [
    {"reward": "style", "weight": 2.0, "mean": 0.5, "std": 0.25},
    {"reward": {"kind": "compressibility", "quality": 50}, "weight": -1.0, "mean": -1.0, "std": 4.0},
]


def named(written):
    return reward_of(written, where="run.yaml", place=["online", "reward"])


def message(written):
    with pytest.raises(ConfigError) as caught:
        named(written)
    return str(caught.value)


def test_a_name_takes_the_defaults_and_a_mapping_sets_options():
    assert named("compressibility") == Compressibility()
    assert named({"kind": "compressibility", "quality": 50}) == Compressibility(quality=50)


def test_a_combination_is_built_from_its_parts():
    combined = named({"kind": "combined", "parts": PARTS, "name": "taste"})
    assert combined == Combined(
        parts=(
            Part(reward=Style(), weight=2.0, mean=0.5, std=0.25),
            Part(reward=Compressibility(quality=50), weight=-1.0, mean=-1.0, std=4.0),
        ),
        name="taste",
    )


@pytest.mark.parametrize(
    ("written", "sentence"),
    [
        ("stile", "online.reward: unknown reward 'stile'. Did you mean 'style'? Known: "),
        ({"quality": 50}, "online.reward: option 'kind' is missing. Known: "),
        (
            {"kind": "style", "stil": 1},
            "online.reward: unknown option of Style 'stil'. Did you mean 'style'?",
        ),
        ({"kind": "compressibility", "quality": 0}, "online.reward.quality: must be in [1, 95], got 0."),
        ({"kind": "combined"}, "online.reward: Combined needs the option 'parts'. Write `parts: ...`"),
        ({"kind": "combined", "parts": "style"}, "online.reward.parts: must be a list of mappings, got "),
        ({"kind": "combined", "parts": []}, "online.reward.parts: must be a list of at least 1, got []."),
        (
            {"kind": "combined", "parts": [PARTS[0] | {"std": 0}]},
            "online.reward.parts.0.std: must be > 0, got 0.",
        ),
        (
            {"kind": "combined", "parts": [PARTS[0] | {"weight": 0.0}]},
            "online.reward.parts.0.weight: must be a number other than 0, got 0.0.",
        ),
        (
            {"kind": "combined", "parts": [{"reward": "beauty", "weight": 1, "mean": 0, "std": 1}]},
            "online.reward.parts.0.reward: unknown reward 'beauty'",
        ),
        (
            {"kind": "combined", "parts": [{"weight": 1}]},
            "online.reward.parts.0: Part needs the option 'reward'",
        ),
    ],
)
def test_what_is_wrong_is_one_sentence(written, sentence):
    assert message(written).startswith(f"run.yaml: {sentence}")


def test_two_rewards_of_one_name_would_mix_their_scores():
    with pytest.raises(ConfigError) as caught:
        rewards_of(["style", {"kind": "style", "style": "noto"}], where="run.yaml", place=["scores"])
    assert str(caught.value) == (
        "run.yaml: scores: two rewards are called 'style'. Remove one, or set the option `name` where the "
        "kind has one."
    )


def test_a_reward_typed_on_the_command_line():
    assert typed("style", where="--reward") == "style"
    assert typed("{kind: style, style: noto}", where="--reward") == {"kind": "style", "style": "noto"}
    for wrong in ("[style]", "{kind"):
        with pytest.raises(ConfigError, match="^--reward: must be a name or a mapping with `kind`, got "):
            typed(wrong, where="--reward")


def test_a_combination_does_not_depend_on_the_batch_and_follows_its_numbers():
    images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    prompts = ["a", "b", "c", "d"]
    parts = (
        Part(reward=Compressibility(), weight=3.0, mean=-1.0, std=0.5),
        Part(reward=Compressibility(quality=30), weight=-1.0, mean=-0.5, std=0.25),
    )
    together = Combined(parts=parts)(images, prompts)
    alone = torch.cat([Combined(parts=parts)(images[i : i + 1], prompts[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(together, alone, rtol=0, atol=0)
    high, low = (part.reward(images, prompts) for part in parts)
    torch.testing.assert_close(together, 3 * (high + 1) / 0.5 - (low + 0.5) / 0.25)


def test_every_number_of_a_combination_is_part_of_its_version():
    part = Part(reward=Compressibility(), weight=1.0, mean=0.0, std=1.0)
    others = [
        Part(reward=Compressibility(quality=30), weight=1.0, mean=0.0, std=1.0),
        Part(reward=Compressibility(), weight=2.0, mean=0.0, std=1.0),
        Part(reward=Compressibility(), weight=1.0, mean=1.0, std=1.0),
        Part(reward=Compressibility(), weight=1.0, mean=0.0, std=2.0),
    ]
    versions = {Combined(parts=(one,)).version for one in [part, *others]}
    assert len(versions) == 5
