"""The scorer that ships, on real pictures: it tells what it is there to tell."""

import pytest
import torch

from penchant.data import store
from penchant.data.images import decode_candidate, prepare
from penchant.data.rows import as_pairs
from penchant.rewards import caption_match
from penchant.rewards._emoji_scorer import EmojiScorer
from penchant.rewards.style import Style
from penchant.runs.data import SHIPPED_DATA


@pytest.fixture(scope="module")
def scorer():
    return EmojiScorer.load()


@pytest.fixture(scope="module")
def pictures():
    """Fluent and flat pictures of 40 held-out captions, [2, 40, 3, 64, 64] in [0, 1], and the captions."""
    winners, losers, captions = [], [], []
    for example in store.read(SHIPPED_DATA["emoji-pairs"], split="test"):
        if example.prompt in captions:
            continue
        ((winner, loser),) = as_pairs(example)
        captions.append(example.prompt)
        for candidates, found in ((winner, winners), (loser, losers)):
            found.append(prepare([decode_candidate(candidates)], size=64)[0] / 2 + 0.5)
        if len(captions) == 40:
            break
    return torch.stack([torch.stack(winners), torch.stack(losers)]), captions


def test_it_neither_trains_nor_drops_anything_out(scorer):
    assert not scorer.training
    assert not any(parameter.requires_grad for parameter in scorer.parameters())


def test_the_right_caption_comes_first(scorer, pictures):
    images, captions = pictures
    match = scorer.image_embedding(images[0]) @ scorer.text_embedding(captions).T
    right = (match.argmax(1) == torch.arange(len(captions))).float().mean()
    assert right >= 0.9
    torch.testing.assert_close(match.diagonal(), scorer.caption_match(images[0], captions))
    torch.testing.assert_close(
        caption_match.CaptionMatch()(images[0], captions), 100 * match.diagonal(), rtol=1e-4, atol=1e-3
    )


def test_the_preferred_style_is_told_from_the_flat_ones(scorer, pictures):
    judge = Style(style="fluent")
    fluent, flat = (judge.labels(images).float().mean() for images in pictures[0])
    assert fluent >= 0.9
    assert flat <= 0.1
    probability = scorer.style_probability(pictures[0][0])
    torch.testing.assert_close(probability.sum(1), torch.ones(40))
    torch.testing.assert_close(
        judge(pictures[0][0], pictures[1]), probability[:, scorer.styles.index("fluent")]
    )


def test_long_captions_are_cut_and_padding_changes_nothing(scorer):
    length = scorer.config["text"]["max_length"]
    ids, words = scorer.tokens(["cat " * 500, "cat"])
    assert ids.shape == (2, length)
    assert words[0].sum() == length
    alone, among = scorer.text_embedding(["cat"]), scorer.text_embedding(["a long name of a thing", "cat"])
    torch.testing.assert_close(alone[0], among[1])
