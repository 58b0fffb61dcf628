import gzip
import json

import pytest

from penchant.data import store, webdataset
from penchant.data.columns import Columns
from penchant.errors import DataError


def sample(key, encoded, colours=("red", "blue"), **values):
    images = [(f"{key}.{number}.png", encoded(colour)) for number, colour in enumerate(colours)]
    return [*images, (f"{key}.json", json.dumps({"prompt": f"prompt {key}"} | values).encode())]


def refused(path, **options):
    with pytest.raises(DataError) as caught:
        list(store.read(path, **options))
    return str(caught.value)


def test_numbered_images_with_scores_ranks_votes_or_best_first(tar, encoded):
    given = {"scores": [0.5, 2], "ranks": [2, 1], "votes": [1, 3]}
    for name, values in given.items():
        data = store.read(tar(sample("a", encoded, **{name: values}, seed=7)))
        better = data[0].preference
        assert better == ((-2.0, -1.0) if name == "ranks" else tuple(map(float, values)))
        assert data[0].provenance == {"seed": 7} and data[0].prompt == "prompt a"
    assert [candidate.votes for candidate in data[0].candidates] == [1, 3]
    data = store.read(tar(sample("a", encoded, ("red", "lime", "blue"))))
    assert data[0].preference == (2.0, 1.0, 0.0)
    assert [c.content() for c in data[0].candidates] == [encoded(c) for c in ("red", "lime", "blue")]
    assert data[0].where.endswith("sample 'a'")


def test_prompts_as_text_and_columns_of_other_names(tar, encoded):
    data = store.read(
        tar([("x/1.0.png", encoded()), ("x/1.1.png", encoded("blue")), ("x/1.txt", b"a cat\n")])
    )
    assert (data[0].prompt, data[0].preference) == ("a cat", (1.0, 0.0))
    members = [("1.jpg_0", encoded()), ("1.jpg_1", encoded("blue")), ("1.caption.txt", b"a cat")]
    path = tar([*members, ("1.json", b'{"label_0": 0.0, "label_1": 1.0}')])
    columns = Columns(prompt="caption.txt", images=("jpg_0", "jpg_1"), scores=("label_0", "label_1"))
    example = store.read(path, columns=columns)[0]
    assert (example.prompt, example.preference) == ("a cat", (0.0, 1.0))
    assert example.candidates[1].content() == encoded("blue")


@pytest.mark.parametrize(
    ("judged", "preference"),
    [({"scores": [0.1, 0.9]}, (0.1, 0.9)), ({"ranks": [2, 1]}, (-2, -1)), ({"votes": [0, 3]}, (0, 3))]
    + [({"winner": 1}, (0, 1))],
)
@pytest.mark.parametrize("as_text", [True, False])
def test_what_is_preferred_counts_wherever_the_prompt_stands(tar, encoded, judged, preference, as_text):
    images = [("1.0.png", encoded()), ("1.1.png", encoded("blue"))]
    if as_text:
        members = [*images, ("1.txt", b"a cat"), ("1.json", json.dumps(judged).encode())]
    else:
        members = [*images, ("1.json", json.dumps({"prompt": "a cat"} | judged).encode())]
    (example,) = store.read(tar(members))
    assert (example.prompt, example.preference) == ("a cat", preference)


def test_a_class_in_the_json_says_nothing_of_what_is_preferred(tar, encoded):
    (example,) = store.read(tar(sample("a", encoded, label=3)))
    assert (example.preference, example.provenance) == ((1.0, 0.0), {"label": 3})


def test_a_sample_with_scores_is_never_read_as_best_first(tar, encoded, monkeypatch):
    without, scored = sample("a", encoded), sample("b", encoded, scores=[0, 1])
    path = tar([*without, *scored])
    assert refused(path) == f"{path}: sample 'a': no 'scores', got 0.png, 1.png, prompt, images."
    monkeypatch.setattr(webdataset, "BLOCK_ROWS", 1)
    assert refused(path) == (
        f"{path}: sample 'b': has 'scores', but this file is read as best first. Say with `data.columns` "
        "(typed: `--column`) what is preferred."
    )
    columns = Columns(prompt="prompt", images=("images",))
    assert store.read(path, columns=columns)[1].preference == (1.0, 0.0)


def test_hidden_members_of_macos_are_passed_over(tar, encoded):
    members = [
        m for name, content in sample("x/1", encoded) for m in ((f"x/._{name[2:]}", b""), (name, content))
    ]
    data = store.read(tar(members))
    assert len(data) == 1 and data[0].prompt == "prompt x/1"


def test_samples_are_found_across_runs_and_shards(tmp_path, tar, encoded, monkeypatch):
    monkeypatch.setattr(webdataset, "BLOCK_ROWS", 2)
    for shard in range(2):
        members = [m for n in range(5) for m in sample(f"{shard}{n}", encoded, scores=[n, 0])]
        tar(members, name=f"set/pairs-{shard:05}.tar")
    data = store.read(tmp_path / "set")
    assert [data[at].prompt for at in (9, 0, 6, 4)] == ["prompt 14", "prompt 00", "prompt 11", "prompt 04"]
    assert [header.preference[0] for header in data.headers] == [0, 1, 2, 3, 4] * 2


def test_a_missing_member_is_named_with_its_sample(tar, encoded):
    whole = sample("a", encoded, scores=[1, 0])
    path = tar([*whole, *sample("b", encoded, scores=[1, 0])[:2]])
    assert refused(path) == f"{path}: sample 'b': no 'prompt', 'scores', got 0.png, 1.png, images."
    path = tar([*whole, *sample("b", encoded, scores=[1, 0])[1:]])
    assert refused(path) == f"{path}: sample 'b': images must be numbered 0, 1, ... without a gap, got 1."
    path = tar([*whole, *sample("b", encoded, ("red",), scores=[1, 0])])
    assert refused(path) == f"{path}: sample 'b': needs one number per candidate in 'scores', got 2 for 1."
    path = tar([*sample("a", encoded), *sample("b", encoded, ("red",))])
    assert refused(path) == f"{path}: sample 'b': needs two images or more, best first, got one."
    path = tar([("a.png", encoded())])
    assert refused(path) == (
        f"{path}: unknown layout, got png. Say with `data.columns` (typed: `--column`) what these mean."
    )


def test_text_that_is_no_text(tar, encoded):
    path = tar([("1.0.png", encoded()), ("1.1.png", encoded()), ("1.txt", b"\xff")])
    assert refused(path) == f"{path}: sample '1': txt: not UTF-8 text (invalid start byte)."


def test_files_that_are_no_tar_files(tmp_path, tar, encoded):
    empty, none = tmp_path / "a.tar", tar([], name="b.tar")
    empty.touch()
    assert refused(empty) == f"{empty}: empty file, got 0 bytes."
    assert refused(none) == f"{none}: no samples, got a tar file without files."
    path = tar(sample("a", encoded))
    content = path.read_bytes()
    for damaged in (gzip.compress(content), content[:700]):
        path.write_bytes(damaged)
        assert refused(path).startswith(f"{path}: damaged, compressed or no tar file (")
