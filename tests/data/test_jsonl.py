import json

import pytest

from penchant.data import store
from penchant.errors import DataError


@pytest.fixture
def put(tmp_path, encoded):
    """Writes lines to a file beside two images."""
    (tmp_path / "img").mkdir()
    (tmp_path / "img" / "a.png").write_bytes(encoded("red"))
    (tmp_path / "img" / "b.png").write_bytes(encoded("blue"))

    def write(*lines):
        path = tmp_path / "pairs.jsonl"
        path.write_text("".join(f"{x if isinstance(x, str) else json.dumps(x)}\n" for x in lines))
        return path

    return write


def refused(path):
    with pytest.raises(DataError) as error:
        store.read(path)
    return str(error.value)


def test_chosen_and_rejected_images(put, encoded):
    path = put({"prompt": "p", "chosen": "img/a.png", "rejected": "img/b.png", "split": "test", "by": "me"})
    (example,) = store.read(path)
    assert example.prompt == "p"
    assert example.preference == (1.0, 0.0)
    assert [c.content() for c in example.candidates] == [encoded("red"), encoded("blue")]
    assert (example.split, example.provenance) == ("test", {"by": "me"})
    assert example.candidates[0].where == f"{path}: line 1: image 'img/a.png'"


def test_chosen_and_rejected_texts(put):
    (example,) = store.read(put({"prompt": "p", "chosen": "yes", "rejected": "see img/a.png, no"}))
    assert [c.text for c in example.candidates] == ["yes", "see img/a.png, no"]


def test_the_kind_may_be_said(put):
    text = {"prompt": "p", "chosen": "img/a.png", "rejected": "img/b.png", "kind": "text"}
    (example,) = store.read(put(text))
    assert example.candidates[0].text == "img/a.png"
    assert example.provenance == {}


def test_scored_lists_of_images_and_texts(put):
    images = {"prompt": "p", "images": ["img/b.png", "img/a.png", "img/b.png"], "scores": [1, 2.5, 1]}
    texts = {"prompt": "q", "texts": ["a.png", "c"], "scores": [0, 1]}
    first, second = store.read(put(images, texts))
    assert first.preference == (1.0, 2.5, 1.0)
    assert first.candidates[0] == first.candidates[2]
    assert [c.text for c in second.candidates] == ["a.png", "c"]


def test_single_candidates_with_a_label(put):
    first, second = store.read(
        put(
            {"prompt": "p", "image": "img/a.png", "label": True}, {"prompt": "q", "text": "t", "label": False}
        )
    )
    assert (first.candidates[0].label, first.preference) == (1, None)
    assert (second.candidates[0].label, second.candidates[0].text) == (-1, "t")


def test_blank_lines_are_skipped_but_counted(put):
    data = store.read(put("", {"prompt": "p", "chosen": "x", "rejected": "y"}, "  "))
    assert [header.row for header in data.headers] == [2]
    assert data[0].where.endswith("pairs.jsonl: line 2")


GOOD = {"prompt": "p", "chosen": "x", "rejected": "y"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"prompt": ', "not JSON, Expecting value at character 13."),
        ("[" * 100_000, "not JSON that can be read, nested too deeply."),
        ('{"prompt": "\\ud800"}', "not UTF-8 text (surrogates not allowed)."),
        ("[1]", "must be an object, got list."),
        (
            '{"prompt": ' + "9" * 5000 + "}",
            "not JSON that can be read (Exceeds the limit (4300 digits) for integer string conversion: value "
            "has 5000 digits; use sys.set_int_max_str_digits() to increase the limit).",
        ),
        ({"prompt": "p"}, "unknown form, got no keys. "),
        ({"prompt": "p", "winner": "x"}, "unknown form, got winner. "),
        ({"chosen": "x", "rejected": "y"}, "key 'prompt': missing, got chosen, rejected."),
        ({**GOOD, "prompt": 3}, "key 'prompt': must be text, got 3."),
        ({**GOOD, "split": 3}, "key 'split': must be text, got 3."),
        ({"prompt": "p", "chosen": "x"}, "key 'rejected': missing, got no keys."),
        ({**GOOD, "rejected": ["y"]}, "key 'rejected': must be a path or text, got [\"y\"]."),
        ({**GOOD, "kind": "audio"}, "key 'kind': must be image or text, got \"audio\"."),
        (
            {**GOOD, "chosen": "img/a.png"},
            "one side is an image path and the other is not, got 'img/a.png' and 'y'. "
            'Say which with "kind": "image" or "kind": "text".',
        ),
        ({"prompt": "p", "images": ["img/a.png"]}, "key 'scores': missing, got no keys."),
        (
            {"prompt": "p", "images": ["img/a.png"], "scores": [1, 2]},
            "key 'scores': needs one score per candidate, got 2 for 1.",
        ),
        ({"prompt": "p", "texts": ["a"], "scores": ["1"]}, "key 'scores': must be numbers, got \"1\"."),
        ({"prompt": "p", "texts": ["a"], "scores": [True]}, "key 'scores': must be numbers, got true."),
        ({"prompt": "p", "texts": ["a"], "scores": [float("nan")]}, "scores must be finite, got [nan]."),
        ({"prompt": "p", "texts": ["a"], "scores": [10**400]}, "key 'scores': a number is too large."),
        ({"prompt": "p", "texts": [], "scores": []}, "an example needs at least one candidate, got none."),
        ({"prompt": "p", "texts": [1], "scores": [1]}, "text: must be text, got 1."),
        ({"prompt": "p", "images": [None], "scores": [1]}, "image: must be a path, got null."),
        ({"prompt": "p", "text": "t", "label": 1}, "key 'label': must be true or false, got 1."),
        ({"prompt": "p", "image": "img/a.png"}, "key 'label': missing, got image."),
    ],
)
def test_a_wrong_line_is_named(put, line, message):
    path = put(GOOD, line)
    forms = "Known: chosen and rejected; images and scores; texts and scores; image or text and label."
    ending = forms if message.startswith("unknown form") else ""
    assert refused(path) == f"{path}: line 2: {message}{ending}"


def test_a_missing_image_is_named(put, tmp_path):
    path = put({"prompt": "p", "chosen": "img/a.png", "rejected": "img/lost.png"})
    assert refused(path) == (
        f"{path}: line 1: no such file, got 'img/lost.png'. Paths are relative to {tmp_path}."
    )


@pytest.mark.parametrize("escape", ["../outside.png", "img/../../outside.png", "/etc/outside.png"])
def test_a_path_that_leads_out_of_the_folder_is_refused(put, tmp_path, escape):
    path = put({"prompt": "p", "chosen": "img/a.png", "rejected": escape})
    assert refused(path) == (
        f"{path}: line 1: path leads out of the folder, got {escape!r}. "
        f"Write paths relative to {tmp_path} and keep the files in it."
    )


def test_a_path_with_a_zero_byte_is_refused(put):
    path = put({"prompt": "p", "images": ["a\0.png"], "scores": [1]})
    assert refused(path) == f"{path}: line 1: not a path, got 'a\\x00.png' (embedded null byte)."


def test_empty_files_are_refused(put):
    path = put()
    assert refused(path) == f"{path}: empty file, got 0 bytes."
    path = put("", " ")
    assert refused(path) == f"{path}: no rows, got blank lines only."


def test_bytes_that_are_not_utf_8_are_refused(put):
    path = put(GOOD)
    path.write_bytes(path.read_bytes() + b'{"prompt": "\xff"}\n')
    assert refused(path) == f"{path}: line 2: not UTF-8 text (invalid start byte)."
