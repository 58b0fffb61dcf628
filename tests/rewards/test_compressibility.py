"""Compressibility: sizes checked against files that Pillow writes, and the law that noise costs bytes."""

import pytest
import torch
from PIL import Image

from penchant.protocols import Reward
from penchant.rewards import catalog
from penchant.rewards.compressibility import Compressibility


def test_the_catalogue_finds_it_and_it_is_a_reward():
    assert catalog.get("compressibility") is Compressibility
    assert isinstance(Compressibility(), Reward)


def test_score_is_minus_the_size_of_the_jpeg_file_in_kb(tmp_path):
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (1, 3, 32, 48), generator=generator) / 255
    picture = Image.new("RGB", (48, 32))
    pixels = (image[0] * 255).round().int()
    for y in range(32):
        for x in range(48):
            picture.putpixel((x, y), tuple(int(value) for value in pixels[:, y, x]))
    picture.save(tmp_path / "x.jpg", quality=95)
    size = (tmp_path / "x.jpg").stat().st_size
    assert Compressibility()(image, ["any"]).item() == pytest.approx(-size / 1000)


def test_a_flat_image_scores_higher_than_noise():
    flat = torch.full((1, 3, 64, 64), 0.5)
    noise = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    scores = Compressibility()(torch.cat([flat, noise]), ["", ""])
    assert scores[0] > scores[1]
    assert scores.dtype == torch.float32
    assert scores.shape == (2,)


def test_values_outside_the_range_are_cut():
    wild = torch.full((1, 3, 16, 16), 7.0)
    assert Compressibility()(wild, [""]) == Compressibility()(torch.ones(1, 3, 16, 16), [""])


def test_another_quality_is_another_version_and_a_wrong_one_is_refused():
    assert Compressibility(quality=50).version != Compressibility().version
    with pytest.raises(ValueError, match="quality must be in .1, 95., got 96"):
        Compressibility(quality=96)
