import pytest
from hypothesis import given
from hypothesis import strategies as st

from penchant.data import store
from penchant.data.split import assign, normalised, shares, splits_of
from penchant.errors import ConfigError, DataError

HALVES = {"train": 0.5, "test": 0.5}
prompts = st.lists(st.text(max_size=8), min_size=1, max_size=8)


@given(prompts, st.randoms(use_true_random=False))
def test_a_prompt_keeps_its_split_whatever_stands_beside_it(texts, random):
    alone = {text: splits_of([text], HALVES)[0] for text in texts}
    random.shuffle(texts)
    assert splits_of(texts, HALVES) == [alone[text] for text in texts]


@pytest.mark.parametrize("other", ["A  Red Fox", " a red fox\n", "a red ｆox"])
def test_prompts_that_read_the_same_stay_together(other):
    assert normalised(other) == normalised("a red fox")
    for key in map(str, range(20)):
        assert splits_of(["a red fox"], HALVES, key=key) == splits_of([other], HALVES, key=key)


def test_shares_hold_on_average_and_keys_differ():
    texts = [f"prompt {i}" for i in range(4000)]
    names = splits_of(texts, {"train": 0.7, "validation": 0.1, "test": 0.2})
    for name, share in (("train", 0.7), ("validation", 0.1), ("test", 0.2)):
        assert names.count(name) / 4000 == pytest.approx(share, abs=0.03)  # 4 standard deviations
    first, second = (splits_of(texts, HALVES, key=key) for key in "ab")
    agree = sum(a == b for a, b in zip(first, second, strict=True)) / 4000
    assert agree == pytest.approx(0.5, abs=0.04)


@given(prompts, st.floats(0.1, 0.8))
def test_a_larger_share_only_adds_prompts(texts, share):
    smaller = splits_of(texts, {"train": share, "test": 1 - share})
    larger = splits_of(texts, {"train": share + 0.1, "test": 0.9 - share})
    assert all(now == "train" for before, now in zip(smaller, larger, strict=True) if before == "train")


def test_the_split_never_changes_between_versions():
    # first 8 bytes of blake2b(prompt, key=sha256("penchant")) / 2**64: .159, .910, .575, .393
    assert splits_of(["cat", "dog", "tree", "house"], HALVES) == ["train", "test", "test", "train"]


def test_examples_of_one_prompt_get_one_split_and_keep_the_rest(pickapic):
    captions = [f"prompt {i % 10}" for i in range(40)]
    path = pickapic(40, caption=captions, split=["old"] * 40, user_id=list(range(40)))
    data = store.read(path)
    moved = list(assign(data, {"train": 0.6, "test": 0.4}))
    assert {e.split for e in moved} == {"train", "test"}
    by_prompt = {(e.prompt, e.split) for e in moved}
    assert len(by_prompt) == 10
    assert [e.id for e in moved] == [e.id for e in data]
    assert [e.provenance for e in moved] == [e.provenance for e in data]


def test_a_split_that_would_stay_empty_is_refused(pickapic):
    path = pickapic(3, caption=["one", "ONE", "one "])
    with pytest.raises(DataError) as error:
        assign(store.read(path), {"a": 0.5, "b": 0.5})
    (name,) = {"a", "b"} - set(splits_of(["one"], {"a": 0.5, "b": 0.5}))
    assert str(error.value) == (
        f"{path}: split {name!r} would stay empty, got 1 prompts in all. "
        "Add prompts, enlarge its share, or choose another key."
    )


def test_shares_are_read_from_text():
    assert shares("train=0.8, test=0.2") == {"train": 0.8, "test": 0.2}


@pytest.mark.parametrize("text", ["", "train", "train=x", "=1", "a=0.5,a=0.5"])
def test_shares_in_another_form_are_refused(text):
    with pytest.raises(ConfigError) as error:
        shares(text)
    assert str(error.value) == f"shares: must be like train=0.8,test=0.2, got {text!r}."


@pytest.mark.parametrize(
    ("fractions", "message"),
    [
        ({"a": 0.8, "b": 0.1}, "shares: must add up to 1, got a=0.8, b=0.1 = 0.9."),
        ({"a": 1.5, "b": -0.5}, "shares: every share must be > 0, got a=1.5, b=-0.5."),
        ({}, "shares: every share must be > 0, got none."),
        ({"a": float("nan")}, "shares: every share must be > 0, got a=nan."),
    ],
)
def test_shares_that_are_not_shares_are_refused(fractions, message):
    with pytest.raises(ConfigError) as error:
        splits_of(["p"], fractions)
    assert str(error.value) == message
