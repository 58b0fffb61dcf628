"""Caption match and style around a stand-in for the shipped scorer: units, batches, sizes, wrong styles."""

import pytest
import torch

from penchant.errors import ConfigError
from penchant.protocols import Reward
from penchant.rewards import caption_match, catalog, style
from penchant.rewards._shipped import in_chunks


class StandIn:
    """Reads the red channel: redder images match better and are more surely fluent."""

    styles = ("noto", "twemoji", "fluent")

    def caption_match(self, images, captions):
        assert images.shape[1:] == (3, 64, 64)
        assert len(images) == len(captions)
        return images[:, 0].mean(dim=(1, 2)) * torch.tensor([len(caption) / 4 for caption in captions])

    def style_probability(self, images):
        red = images[:, 0].mean(dim=(1, 2))
        return torch.stack([(1 - red) / 2, (1 - red) / 2, red], dim=1)


@pytest.fixture(autouse=True)
def stand_in(monkeypatch):
    for module in (caption_match, style):
        monkeypatch.setattr(module, "shipped_scorer", StandIn)


def images(*red: float, size: int = 64) -> torch.Tensor:
    batch = torch.zeros(len(red), 3, size, size)
    batch[:, 0] = torch.tensor(red)[:, None, None]
    return batch


def test_the_catalogue_finds_both_and_they_are_rewards():
    for name, found in (("caption-match", caption_match.CaptionMatch), ("style", style.Style)):
        assert catalog.get(name) is found
        assert isinstance(found(), Reward)
    assert style.Style(style="noto").version != style.Style().version


def test_a_point_of_caption_match_is_a_hundredth_of_cosine():
    torch.testing.assert_close(
        caption_match.CaptionMatch()(images(0.5, 0.25), ["aaaa", "aa"]), torch.tensor([50.0, 12.5])
    )


def test_every_image_meets_its_own_prompt_in_every_chunk():
    prompts = ["a" * (i % 4) for i in range(150)]
    scores = caption_match.CaptionMatch()(images(*[1.0] * 150), prompts)
    torch.testing.assert_close(scores, torch.tensor([25.0 * (i % 4) for i in range(150)]))


@pytest.mark.parametrize("size", [32, 64, 96])
def test_images_of_other_sizes_are_resized(size):
    assert style.Style()(images(0.75, size=size), [""]).item() == pytest.approx(0.75, abs=1e-5)


def test_labels_say_which_style_is_the_most_probable():
    # fluent beats each of the others when red > (1 - red) / 2, that is above 1/3
    assert style.Style().labels(images(0.3, 0.4, 0.9)).tolist() == [0, 1, 1]


def test_an_unknown_style_names_the_known_ones():
    with pytest.raises(ConfigError, match="unknown style 'flunt'. Did you mean 'fluent'"):
        style.Style(style="flunt")(images(0.5), [""])


def test_no_images_give_no_scores():
    assert in_chunks(torch.zeros(0, 3, 8, 8), lambda part, rows: part.sum(dim=(1, 2, 3))).shape == (0,)
