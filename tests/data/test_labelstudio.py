import json

import pytest

from penchant.data import store
from penchant.data.rows import as_pairs
from penchant.errors import DataError


def vote(selected, **more):
    result = {
        "from_name": "pw",
        "to_name": "image1,image2",
        "type": "pairwise",
        "value": {"selected": selected},
    }
    return {"result": [result], "was_cancelled": False} | more


@pytest.fixture
def export(tmp_path, encoded):
    def write(*annotations, **data):
        for name in ("a", "b"):
            (tmp_path / f"{name}.png").write_bytes(encoded("red" if name == "a" else "blue"))
        task = {
            "prompt": "a cat",
            "image1": "a.png",
            "image2": "/data/local-files/?d=b.png",
            "seed": 3,
        } | data
        path = tmp_path / "project-1.json"
        path.write_text(json.dumps([{"id": 5, "data": task, "annotations": list(annotations)}]))
        return path

    return write


def test_votes_decide_and_cancelled_ones_do_not_count(export, encoded):
    path = export(vote("left"), vote("left"), vote("right"), vote("right", was_cancelled=True))
    example = store.read(path)[0]
    assert (example.prompt, example.preference) == ("a cat", (2.0, 1.0))
    assert [candidate.votes for candidate in example.candidates] == [2, 1]
    assert [candidate.content() for candidate in example.candidates] == [encoded("red"), encoded("blue")]
    assert example.provenance == {"seed": 3, "task": 5}


def test_left_and_right_are_what_their_keys_say(export, encoded):
    for names in ({"right": "b.png", "left": "a.png"}, {"image_Right": "b.png", "image_Left": "a.png"}):
        path = export(vote("left"), image1=None, image2=None, **names)
        example = store.read(path)[0]
        assert [candidate.content() for candidate in example.candidates] == [encoded("red"), encoded("blue")]
        assert example.preference == (1.0, 0.0)


@pytest.mark.parametrize(
    ("first", "second", "swapped"),
    [
        ("left_bright", "left_dark", False),
        ("bright", "left", False),
        ("right_or_left", "left", False),
        ("right-left", "left-right", False),
        ("rightImage", "leftImage", True),
        ("IMAGE_RIGHT", "IMAGE_LEFT", True),
        ("right_bright", "left_bright", True),
    ],
)
def test_a_side_is_a_whole_word_of_one_key_alone(export, encoded, first, second, swapped):
    path = export(vote("left"), image1=None, image2=None, **{first: "a.png", second: "b.png"})
    [winner, _] = as_pairs(store.read(path)[0])[0]
    assert winner.content() == encoded("blue" if swapped else "red")


def test_a_tie_of_votes_is_a_tie_and_no_vote_is_no_preference(export):
    assert store.read(export(vote("left"), vote("right")))[0].preference == (1.0, 1.0)
    assert store.read(export())[0].preference is None
    assert store.read(export({"result": [{"type": "choices"}]}))[0].preference is None


def test_exports_that_cannot_be_read(export):
    for annotation, data, message in (
        (vote("both"), {}, "must select left or right, got 'both'."),
        (vote("left"), {"image2": 3}, "needs two images in its data, got image1."),
        (vote("left"), {"image2": "http://[x/b.png"}, "needs two images in its data, got image1."),
        (vote("left") | {"result": None}, {}, "key 'result': must be a list of objects, got null."),
        ({"result": [{"type": "pairwise", "value": None}]}, {}, "key 'value': must be an object, got null."),
        (3, {}, "key 'annotations': must be a list of objects, got [3]."),
    ):
        path = export(annotation, **data)
        with pytest.raises(DataError) as caught:
            store.read(path)
        assert str(caught.value) == f"{path}: task 5: {message}"


def test_an_image_behind_an_address_is_not_fetched(export):
    data = store.read(export(vote("left"), image1="https://example.org/a.png"))
    with pytest.raises(DataError, match="no such file, got 'https://example.org/a.png'"):
        data[0]
