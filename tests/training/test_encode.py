"""Images and prompts go through the encoders once; shapes come from what people said."""

import pytest
import torch
from tests import small

from penchant import families
from penchant.data import store
from penchant.data.rows import Candidate, Example
from penchant.errors import DataError
from penchant.families import sd15
from penchant.shapes import Shape
from penchant.training.encode import Group, encode, groups_of


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
    found = encode(groups, family, size=16, batch_size=2, progress=done.append)
    assert seen == {"images": 3, "prompts": ["", "x", "y"]}
    assert done == [2, 3]
    assert found.prompt == [1, 1, 2] and found.ids == ("1", "2", "3")
    assert found.mean.shape == (3, 1, 2, 4, 8, 8)
    assert torch.equal(found.mean[0, :, 0], found.mean[1, :, 1])
    assert not torch.equal(found.mean[0, :, 0], found.mean[0, :, 1])
    assert found.score is None and found.valid is None


def test_mirrored_images_are_those_of_the_mirrored_picture(family):
    from penchant.data.images import decode_candidate, prepare

    candidate = Candidate(image=small.picture(5, 100))
    found = encode([Group(id="1", prompt="", candidates=[candidate])], family, size=16, flip=True)
    pixels = prepare([decode_candidate(candidate)], size=16)
    mean, deviation = family.encode_images(pixels.flip(-1))
    assert found.mean.shape[1] == 2
    torch.testing.assert_close(found.mean[0, 1], mean)
    torch.testing.assert_close(found.deviation[0, 1], deviation)
    torch.testing.assert_close(found.mean[0, 0], family.encode_images(pixels)[0])


def test_lists_of_different_length_are_padded(family, tiny_lists):
    groups = groups_of(store.read(tiny_lists), Shape.RANKED, where="x")
    found = encode(groups, family, size=16)
    assert found.mean.shape[2] == 4
    assert found.valid.sum(1).tolist() == [3, 4] * 4
    assert (found.score[0, :3].diff() <= 0).all()
