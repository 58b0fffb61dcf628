"""Images and prompts go through the encoders once; shapes come from what people said."""

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from tests import small

from penchant import families
from penchant.data import store
from penchant.data.images import decode_candidate, prepare
from penchant.data.rows import Candidate, Example, GroupRules
from penchant.errors import DataError
from penchant.families import sd15
from penchant.randomness import Randomness
from penchant.shapes import Shape
from penchant.training.encode import Group, Preparation, encode, groups_of
from penchant.training.table import Table

SQUARE = Preparation(sizes=((16, 16),))


@pytest.fixture(scope="module")
def family(tiny_model):
    return sd15.load(families.resolve(str(tiny_model)))


def example(*scores, prompt="a"):
    candidates = tuple(Candidate(image=small.picture(n, 20 * n)) for n in range(len(scores)))
    return Example(prompt=prompt, candidates=candidates, preference=scores or None)


def test_a_list_gives_what_each_shape_needs():
    data = [example(0.1, 0.9, 0.5)]
    best = [data[0].candidates[n].content_hash for n in (1, 2, 0)]
    pairs = groups_of(data, Shape.PAIR, where="x")
    assert {tuple(c.content_hash for c in group.candidates) for group in pairs} == {
        (best[0], best[1]), (best[0], best[2]), (best[1], best[2])
    }  # fmt: skip
    assert len({group.id for group in pairs}) == 3
    (ranked,) = groups_of(data, Shape.RANKED, where="x")
    assert [c.content_hash for c in ranked.candidates] == best
    assert list(ranked.score) == sorted(ranked.score, reverse=True)
    unary = groups_of(data, Shape.UNARY, where="x")
    assert {c.content_hash: group.score for group in unary for c in group.candidates}[best[0]] == [1]


@pytest.mark.parametrize(
    ("shape", "way_out"),
    [
        (Shape.PAIR, "A pair needs two images of one prompt with different labels; ties are left out."),
        (Shape.UNARY, "A unary group needs an image with a label, or a pair with a winner."),
        (Shape.RANKED, "A ranked list needs at least two images of one prompt with scores."),
    ],
)
def test_data_without_a_usable_group_is_refused(shape, way_out):
    with pytest.raises(DataError) as caught:
        groups_of([example(0.5, 0.5)], shape, where="run.yaml: data.path: x.parquet (train)")
    assert str(caught.value) == (
        f"run.yaml: data.path: x.parquet (train): no usable group of shape {shape.value}. {way_out}"
    )


def test_a_gap_that_no_pair_has_is_named():
    with pytest.raises(DataError) as caught:
        groups_of([example(0.5, 1.0)], Shape.PAIR, where="x", rules=GroupRules(min_gap=2))
    assert str(caught.value) == (
        "x: no usable group of shape pair. A pair needs two images of one prompt whose scores differ by "
        "min_gap, 2, or more. Lower min_gap."
    )


def test_groups_with_a_small_image_are_left_out_and_counted(caplog):
    wide = Candidate(image=small.picture(9, 20, width=40, height=12))
    mixed = replace(example(1.0, 0.0), candidates=(wide, Candidate(image=small.picture(1, 20))))
    data, rules = [example(1.0, 0.0), mixed, example(0.1, 0.9, 0.5)], GroupRules(min_size=13)
    ids = [group.id for group in groups_of(data, Shape.PAIR, where="x", rules=rules)]
    assert not {name for name in ids if name.startswith(mixed.id)} and len(ids) == 4
    assert caplog.messages == [
        "x: 1 of 5 groups are left out: the shorter side of an image is below min_size, 13 px"
    ]
    assert len(groups_of(data, Shape.PAIR, where="x", rules=GroupRules(min_size=12))) == 5
    assert len(caplog.messages) == 1
    with pytest.raises(DataError) as caught:
        groups_of(data, Shape.PAIR, where="x", rules=GroupRules(min_size=17))
    assert str(caught.value) == (
        "x: each of 5 groups has an image whose shorter side is below min_size, 17 px. Lower min_size, or "
        "give larger images."
    )


def test_groups_that_teach_nothing_are_counted_aloud(caplog):
    one = Candidate(image=small.picture(1, 20))
    same = Example(prompt="a", candidates=(one, one), preference=(1.0, 0.0))
    groups_of([same, example(1.0, 0.0, prompt=" "), example(1.0, 0.0)], Shape.PAIR, where="x")
    assert caplog.messages == [
        "x: 1 of 3 groups hold the same image twice; `penchant data check` lists them",
        "x: 1 of 3 groups have an empty prompt; `penchant data check` lists them",
    ]


def test_equal_images_and_prompts_are_encoded_once(family, monkeypatch):
    seen = {"images": 0, "prompts": []}
    real_images, real_prompts = family.encode_images, family.encode_prompts

    def images(pixels):
        seen["images"] += len(pixels)
        return real_images(pixels)

    def prompts(texts):
        seen["prompts"] += texts
        return real_prompts(texts)

    monkeypatch.setattr(family, "encode_images", images)
    monkeypatch.setattr(family, "encode_prompts", prompts)
    a, b, c = (Candidate(image=small.picture(n, 100)) for n in range(3))
    groups = [
        Group(id="1", prompt="x", candidates=[a, b]),
        Group(id="2", prompt="x", candidates=[c, a]),
        Group(id="3", prompt="y", candidates=[b, c]),
    ]
    done = []
    found = encode(groups, family, SQUARE, batch_size=2, progress=done.append)
    assert seen == {"images": 3, "prompts": ["", "x", "y"]}
    assert done == [0, 2, 3]
    assert found.prompt == [1, 1, 2] and found.ids == ("1", "2", "3")
    assert found.image.shape == (3, 1, 2) and len(found.latents) == 3
    assert found.latents.shape(0, "mean") == (4, 8, 8)
    assert found.image[0, 0, 0] == found.image[1, 0, 1] != found.image[0, 0, 1]
    assert found.score is None and found.valid is None


def test_mirrored_images_are_those_of_the_mirrored_picture(family):
    candidate = Candidate(image=small.picture(5, 100))
    preparation = Preparation(sizes=((16, 16),), flip=True)
    found = encode([Group(id="1", prompt="", candidates=[candidate])], family, preparation)
    pixels = prepare([decode_candidate(candidate)], size=16)
    mean, deviation = family.encode_images(pixels.flip(-1))
    plain, mirrored = (found.latents.take([row]) for row in found.image[0, :, 0].tolist())
    torch.testing.assert_close(mirrored["mean"], mean)
    torch.testing.assert_close(mirrored["deviation"], deviation)
    torch.testing.assert_close(plain["mean"], family.encode_images(pixels)[0])


def test_lists_of_different_length_are_padded(family, tiny_lists):
    groups = groups_of(store.read(tiny_lists), Shape.RANKED, where="x")
    found = encode(groups, family, SQUARE)
    assert found.image.shape[2] == 4
    assert torch.equal(found.image[::2, :, 3], found.image[::2, :, 0]), "padded with the winner"
    assert found.valid.sum(1).tolist() == [3, 4] * 4
    assert (found.score[0, :3].diff() <= 0).all()


def photo(width, height, seed=0):
    file = io.BytesIO()
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(noise).save(file, "PNG")
    return Candidate(image=file.getvalue())


def test_a_group_takes_the_bucket_of_its_winner(family):
    """Latents have half the sides here; the wide loser is cut to the high winner's bucket, and vice versa."""
    high, wide, square = photo(12, 24), photo(30, 20), photo(20, 20)
    groups = [
        Group(id="high", prompt="x", candidates=[high, wide]),
        Group(id="wide", prompt="x", candidates=[wide, high]),
        Group(id="square", prompt="y", candidates=[square, high]),
        Group(id="wide again", prompt="y", candidates=[wide, square]),
    ]
    found = encode(groups, family, Preparation(sizes=((16, 16), (20, 12), (12, 20))))
    assert found.pieces(range(4), 4) == [[0], [1, 3], [2]]
    shapes = [found.batch(piece, Randomness(run=0)).latents.shape for piece in found.pieces(range(4), 4)]
    assert shapes == [(1, 2, 4, 10, 6), (2, 2, 4, 6, 10), (1, 2, 4, 8, 8)]
    assert len(found.latents) == 2 + 3 + 2, "an image is encoded once for each bucket that it is in"
    pixels = prepare([decode_candidate(wide)], size=(20, 12))
    row = int(found.image[0, 0, 1])
    torch.testing.assert_close(found.latents.take([row])["mean"], family.encode_images(pixels)[0])


def test_all_candidates_of_a_group_get_the_same_window_and_mirror(family):
    """Four windows, each mirrored or not: which one is seen is drawn once per group and epoch."""
    wide, wider = photo(32, 16), photo(48, 16, seed=1)
    preparation = Preparation(sizes=((16, 16),), crops=4, flip=True)
    assert preparation.variants() == [
        (0.125, False), (0.125, True), (0.375, False), (0.375, True),
        (0.625, False), (0.625, True), (0.875, False), (0.875, True),
    ]  # fmt: skip
    found = encode([Group(id="1", prompt="", candidates=[wide, wider])], family, preparation)
    assert found.image.shape == (1, 8, 2)
    expected = {}
    for number, (place, flip) in enumerate(preparation.variants()):
        for k, candidate in enumerate((wide, wider)):
            pixels = prepare([decode_candidate(candidate)], size=16, crop=(place, place), flip=flip)
            expected[number, k] = family.encode_images(pixels)[0]
    still = replace(found, latents=without_deviation(found.latents))
    seen = set()
    for epoch in range(40):
        latents = still.batch([0], Randomness(run=0, epoch=epoch)).latents[0]
        gaps = [max((latents[k] - expected[n, k]).abs().max() for k in (0, 1)) for n in range(8)]
        assert min(gaps) < 1e-5
        seen.add(gaps.index(min(gaps)))
    assert seen == set(range(8))


def without_deviation(table):
    shards = [{**shard, "deviation": torch.zeros_like(shard["deviation"])} for shard in table.shards]
    return Table(shards, table.places)
