import json

import pytest

from penchant.data import store
from penchant.errors import DataError

KNOWN = "Known: w/NAME.png and l/NAME.png, or NAME__0.png and NAME__1.png."


@pytest.fixture
def put(tmp_path, encoded):
    """Writes files into a folder; an image where the content is a colour."""
    folder = tmp_path / "mine"

    def write(**files):
        for name, content in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            is_text = path.suffix in (".txt", ".json")
            path.write_bytes(content.encode() if is_text else encoded(content))
        return folder

    return write


def refused(folder):
    with pytest.raises(DataError) as error:
        store.read(folder)
    return str(error.value)


def test_w_and_l_folders_give_pairs_by_name(put, encoded):
    folder = put(
        **{
            "w/cat.png": "red",
            "l/cat.jpg": "blue",
            "w/a dog.png": "white",
            "l/a dog.png": "black",
            "w/cat.txt": "a cat\n",
            "w/a dog.txt": "a dog",
        }
    )
    dog, cat = store.read(folder)
    assert (dog.prompt, cat.prompt) == ("a dog", "a cat")
    assert cat.preference == (1.0, 0.0)
    assert [c.content() for c in cat.candidates] == [encoded("red"), encoded("blue")]
    assert cat.provenance == {"name": "cat"}
    assert cat.where == f"{folder}: 'cat'"


def test_numbered_names_are_ranked_with_0_as_the_best(put, encoded):
    captions = json.dumps({"x": "two", "y__z": "three"})
    names = {f"y__z__{i}.png": colour for i, colour in enumerate(["red", "green", "blue"])}
    folder = put(**names, **{"x__1.png": "white", "x__0.png": "black", "captions.json": captions})
    two, three = store.read(folder)
    assert (two.prompt, two.preference) == ("two", (1.0, 0.0))
    assert (three.prompt, three.preference) == ("three", (2.0, 1.0, 0.0))
    assert two.candidates[0].content() == encoded("black")


def test_an_empty_prompt_may_be_written(put):
    folder = put(**{"x__0.png": "red", "x__1.png": "blue", "x.txt": "", "x__0.txt": "not read"})
    assert store.read(folder)[0].prompt == ""


def test_files_of_a_folder_are_not_opened_before_they_are_asked_for(put):
    folder = put(**{"x__0.png": "red", "x__1.png": "blue", "x.txt": "p"})
    data = store.read(folder)
    (folder / "x__0.png").unlink()
    with pytest.raises(DataError) as error:
        data[0].id  # noqa: B018
    assert str(error.value) == f"{folder}/x__0.png: cannot read the image (No such file or directory)."


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"w/a.png": "red", "l/b.png": "red"},
            ": 'a' is in w/ but not in l/. Every name needs an image in both.",
        ),
        (
            {"l/b.png": "red", "w/readme.txt": ""},
            ": 'b' is in l/ but not in w/. Every name needs an image in both.",
        ),
        (
            {"w/a.png": "red", "w/a.jpg": "red", "l/a.png": "red"},
            ": two images named 'a' in w/, got a.jpg and a.png. Keep one.",
        ),
        (
            {"w/a.txt": "", "l/a.txt": ""},
            ": no images in w/ and l/. Put the preferred images in w/, the others in l/.",
        ),
        (
            {"a.txt": ""},
            f": no images in a known layout. {KNOWN}",
        ),
        (
            {"cat.png": "red"},
            f": unknown layout, got cat.png. {KNOWN}",
        ),
        (
            {"a__0.png": "red", "a__2.png": "red"},
            ": 'a' must be numbered 0 (best), 1, ... without a gap, got 0, 2.",
        ),
        ({"a__0.png": "red"}, ": 'a' must be numbered 0 (best), 1, ... without a gap, got 0."),
        ({"a__0.png": "red", "a__0.jpg": "red"}, ": two images numbered 0 for 'a'. Keep one."),
        (
            {"a__0.png": "red", "a__1.png": "red", "captions.json": '{"b": "p"}'},
            "/captions.json: no prompt for 'a'.",
        ),
        (
            {"a__0.png": "red", "a__1.png": "red", "captions.json": '["p"]'},
            '/captions.json: must map names to prompts, like {"NAME": "prompt"}.',
        ),
    ],
)
def test_a_folder_that_does_not_fit_is_refused(put, files, message):
    folder = put(**files)
    assert refused(folder) == f"{folder}{message}"


def test_a_missing_prompt_is_named_with_both_ways_out(put):
    folder = put(**{"w/a.png": "red", "l/a.png": "blue"})
    assert refused(folder) == (
        f"{folder}: no prompt for 'a'. Write it to captions.json or to {folder}/w/a.txt."
    )


def test_captions_that_are_not_json_are_refused(put):
    folder = put(**{"a__0.png": "red", "a__1.png": "red", "captions.json": "{"})
    assert refused(folder).startswith(f"{folder}/captions.json: not JSON (")


def test_a_prompt_that_is_not_text_is_refused(put):
    folder = put(**{"a__0.png": "red", "a__1.png": "blue"})
    (folder / "a.txt").write_bytes(b"\xff\xfe")
    assert refused(folder) == f"{folder}/a.txt: not UTF-8 text."


def test_a_link_out_of_the_folder_is_refused(put, tmp_path, encoded):
    folder = put(**{"a__0.png": "red", "a.txt": "p"})
    (tmp_path / "secret.png").write_bytes(encoded("blue"))
    (folder / "a__1.png").symlink_to(tmp_path / "secret.png")
    assert refused(folder) == (
        f"{folder}: path leads out of the folder, got 'a__1.png'. "
        f"Write paths relative to {folder} and keep the files in it."
    )
