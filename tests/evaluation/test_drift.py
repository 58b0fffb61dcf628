"""Drift measures on images whose values are known, and the panel on pairs."""

import numpy as np
import pytest
import torch

from penchant.evaluation import drift
from penchant.evaluation.drift import (
    PairedImages,
    colour_entropy,
    contrast,
    diversity_between_seeds,
    drift_measure,
    drift_panel,
    edge_density,
    saturation,
    spectrum_slope,
)
from penchant.training.live_bytes import LiveBytes


def flat(red: float, green: float, blue: float, size: int = 16) -> torch.Tensor:
    return torch.tensor([red, green, blue]).reshape(1, 3, 1, 1).expand(1, 3, size, size).clone()


def noise_with_power(exponent: float, size: int = 128) -> torch.Tensor:
    """Grey image whose power falls with frequency^exponent, random phases."""
    generator = torch.Generator().manual_seed(0)
    frequency = (torch.fft.fftfreq(size)[:, None] ** 2 + torch.fft.fftfreq(size) ** 2).sqrt()
    frequency[0, 0] = 1
    spectrum = torch.fft.fft2(torch.randn(size, size, generator=generator)) * frequency ** (exponent / 2)
    image = torch.fft.ifft2(spectrum).real
    image = (image - image.min()) / (image.max() - image.min())
    return image.expand(1, 3, size, size)


def test_saturation_of_grey_black_pink_and_red():
    images = torch.cat([flat(0.4, 0.4, 0.4), flat(0, 0, 0), flat(1, 0.5, 0.5), flat(0.7, 0, 0)])
    torch.testing.assert_close(saturation(images), torch.tensor([0.0, 0.0, 0.5, 1.0]))


def test_contrast_of_flat_and_of_half_black_half_white():
    halves = flat(0, 0, 0)
    halves[..., :8] = 1
    torch.testing.assert_close(contrast(torch.cat([flat(0.3, 0.6, 0.1), halves])), torch.tensor([0.0, 0.5]))


def test_edge_density_of_a_checkerboard():
    # cells of 8 in 64 pixels: 7 of the 63 neighbours in each row and column differ
    cell = torch.arange(64) // 8
    board = ((cell[:, None] + cell) % 2).float().expand(1, 3, 64, 64)
    assert edge_density(board).item() == pytest.approx(7 / 63)
    assert edge_density(0.09 * board).item() == 0  # steps below the limit are no edges
    finest = ((torch.arange(64)[:, None] + torch.arange(64)) % 2).float().expand(1, 3, 64, 64)
    assert edge_density(finest).item() == 1


def test_colour_entropy_of_one_and_of_four_colours():
    four = flat(0, 0, 0)
    four[:, 0, :8] = 1
    four[:, 1, :, :8] = 1
    torch.testing.assert_close(colour_entropy(torch.cat([flat(1, 0.5, 0), four])), torch.tensor([0.0, 2.0]))


@pytest.mark.parametrize("exponent", [0.0, -1.0, -2.0, -3.0])
def test_spectrum_slope_finds_the_constructed_exponent(exponent):
    assert spectrum_slope(noise_with_power(exponent)).item() == pytest.approx(exponent, abs=0.12)


def test_spectrum_slope_of_a_flat_image_and_of_an_oblong_one_is_finite():
    assert spectrum_slope(flat(0.5, 0.5, 0.5)).item() == pytest.approx(0, abs=1e-6)
    oblong = torch.rand(2, 3, 40, 64, generator=torch.Generator().manual_seed(0))
    assert spectrum_slope(oblong).abs().max() < 0.4


def test_diversity_worked_by_hand():
    # prompt b: greys 0, 1/2, 1 have distances 1/2, 1/2, 1: mean 2/3. Prompt a: one pair at distance 1.
    greys = torch.cat([flat(v, v, v) for v in (0.0, 0.0, 0.5, 1.0, 1.0, 0.3)])
    values = diversity_between_seeds(greys, ["a", "b", "b", "b", "a", "alone"])
    assert values.tolist() == pytest.approx([1.0, 2 / 3])


def test_diversity_in_a_given_feature_space():
    greys = torch.cat([flat(v, v, v) for v in (0.0, 1.0)])
    values = diversity_between_seeds(greys, ["a", "a"], features=lambda x: 3 * x[:, :, 0, 0])
    assert values.tolist() == pytest.approx([3 * 3**0.5])


def test_one_line_of_the_panel_worked_by_hand():
    line = drift_measure("x", "u", [2.0, 4.0], [3.0, 5.0], preferred=4.5)
    assert (line.base, line.tuned, line.difference, line.low, line.high) == (3.0, 4.0, 1.0, 1.0, 1.0)
    assert line.relative_change == pytest.approx(1 / 3)
    assert line.preferred == 4.5
    assert drift_measure("x", "u", [0.0, 0.0], [1.0, 1.0]).relative_change is None
    assert drift_measure("x", "u", [-2.0], [-3.0]).relative_change == pytest.approx(-0.5)


def test_the_panel_of_equal_images_has_no_change():
    images = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    pairs = PairedImages(base=images, tuned=images, prompts=list("aabbcc"))
    panel = drift_panel(pairs, caption_match=([1.0] * 6, [1.0] * 6))
    assert [line.name for line in panel] == [
        "saturation",
        "contrast",
        "edge density",
        "colour entropy",
        "spectrum slope",
        "diversity between seeds",
        "caption match",
    ]
    assert all((line.difference, line.low, line.high) == (0, 0, 0) for line in panel)


def test_the_panel_swaps_sign_with_its_sides_and_leaves_out_what_it_cannot_measure():
    generator = torch.Generator().manual_seed(0)
    base, tuned = torch.rand(2, 40, 3, 8, 8, generator=generator)
    tuned = tuned**2
    names = [f"{i}" for i in range(40)]
    forward = drift_panel(PairedImages(base=base, tuned=tuned, prompts=names), preferred=base[:3])
    backward = drift_panel(PairedImages(base=tuned, tuned=base, prompts=names))
    assert len(forward) == 5  # one seed per prompt and no caption scorer
    for there, back in zip(forward, backward, strict=True):
        assert there.difference == pytest.approx(-back.difference)
        assert there.low == pytest.approx(-back.high)
        assert there.low <= there.difference <= there.high
    assert np.isfinite([line.preferred for line in forward]).all()
    assert all(line.preferred is None for line in backward)


def test_sides_of_different_shape_are_refused():
    with pytest.raises(ValueError, match="need the same shape"):
        drift_panel(
            PairedImages(base=torch.zeros(2, 3, 8, 8), tuned=torch.zeros(1, 3, 8, 8), prompts=["a", "b"])
        )


def test_further_seeds_are_read_by_the_diversity_alone():
    generator = torch.Generator().manual_seed(0)
    base, tuned, second_base = torch.rand(3, 4, 3, 8, 8, generator=generator)
    pairs = PairedImages(base=base, tuned=tuned, prompts=list("abcd"))
    alone = drift_panel(pairs)
    further = PairedImages(base=second_base[:2], tuned=tuned[:2], prompts=["a", "b"])
    panel = drift_panel(pairs, more_seeds=further)
    assert panel[:-1] == alone
    assert panel[-1].name == "diversity between seeds"
    expected = ((base[:2] - second_base[:2]) ** 2).mean((1, 2, 3)).sqrt().mean().item()
    assert panel[-1].base == pytest.approx(expected, rel=1e-5)
    assert panel[-1].tuned == 0


def test_further_seeds_are_cut_as_if_they_stood_behind_the_first():
    """A network rounds differently for another batch size; here it sees how large the batch is."""
    sizes = []

    def features(images):
        sizes.append(len(images))
        return images.flatten(1) - images.mean()

    images = torch.rand(2, 75, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    names = [f"prompt {number % 45}" for number in range(75)]
    pairs, further = (
        PairedImages(base=images[0, part], tuned=images[1, part], prompts=names[part])
        for part in (slice(45), slice(45, None))
    )
    panel = drift_panel(pairs, more_seeds=further, features=features)
    assert sizes == [32, 32, 11] * 2
    expected = [diversity_between_seeds(side, names, features=features).mean() for side in images]
    assert [panel[-1].base, panel[-1].tuned] == expected


def test_the_panel_holds_no_copy_of_the_images(monkeypatch):
    monkeypatch.setattr(drift, "_IMAGES_AT_ONCE", 4)
    images = torch.rand(2, 640, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    names = [f"prompt {number % 320}" for number in range(640)]
    pairs, further = (
        PairedImages(base=images[0, part], tuned=images[1, part], prompts=names[part])
        for part in (slice(320), slice(320, None))
    )
    with LiveBytes() as live:
        given = live.count([images])
        drift_panel(pairs, more_seeds=further, features=lambda some: some.mean(dim=(2, 3)))
    assert live.peak - given < images.nbytes / 8
