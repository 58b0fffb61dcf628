import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penchant.data.rows import Candidate, Example, as_pairs, as_ranked, as_unary, from_dict, to_dict
from penchant.errors import DataError
from penchant.shapes.grouping import PairRule, UnaryRule

names = st.none() | st.text(max_size=5)
facts = st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5) | st.none(), max_size=2)
finite = st.floats(allow_nan=False, allow_infinity=False)


@st.composite
def candidates(draw):
    image = draw(st.booleans())
    return Candidate(
        image=draw(st.binary(max_size=8)) if image else None,
        text=None if image else draw(st.text(max_size=8)),
        scores=draw(st.dictionaries(st.text(max_size=4), finite, max_size=2)),
        label=draw(st.sampled_from([None, 1, -1])),
        votes=draw(st.none() | st.integers(0, 100)),
        style=draw(names),
        source=draw(names),
        license=draw(names),
        mask=draw(st.none() | st.binary(max_size=4)),
        segments=draw(st.none() | st.lists(finite, max_size=3).map(tuple)),
        meta=draw(facts),
    )


@st.composite
def examples(draw):
    members = draw(st.lists(candidates(), min_size=1, max_size=4))
    scores = st.lists(finite, min_size=len(members), max_size=len(members)).map(tuple)
    return Example(
        prompt=draw(st.text(max_size=10)),
        candidates=tuple(members),
        preference=draw(st.none() | scores),
        split=draw(names),
        provenance=draw(facts),
    )


def texts(*preference, **each):
    members = tuple(Candidate(text=letter) for letter in "abcdef"[: len(preference)])
    return Example(prompt="p", candidates=members, preference=preference, **each)


@given(examples())
def test_plain_values_give_the_example_back(example):
    back = from_dict(to_dict(example))
    assert back == example
    assert back.id == example.id


@given(examples(), st.text(min_size=1, max_size=3))
def test_the_id_follows_the_content_and_nothing_else(example, other):
    relabelled = dataclasses.replace(example, preference=None, split=other, provenance={"by": other})
    assert relabelled.id == example.id
    assert dataclasses.replace(example, prompt=example.prompt + other).id != example.id
    more = (*example.candidates, Candidate(text=other))
    assert dataclasses.replace(example, candidates=more, preference=None).id != example.id


def test_the_id_is_the_same_for_bytes_and_for_their_file(tmp_path):
    (tmp_path / "a.png").write_bytes(b"content")
    ids = [
        Example(prompt="p", candidates=(Candidate(image=image),)).id
        for image in (b"content", tmp_path / "a.png")
    ]
    assert ids[0] == ids[1]


def test_the_id_never_changes_between_versions():  # draws of old runs are keyed by it
    expected = "076c9f31"  # printf '["p", "SHA256 of a", "SHA256 of b"]' | sha256sum
    assert Example(prompt="p", candidates=(Candidate(text="a"), Candidate(text="b"))).id[:8] == expected


def test_pairs_have_the_winner_first():
    first, second = texts(0.0, 1.0).candidates
    assert as_pairs(texts(0.0, 1.0)) == [(second, first)]
    assert as_pairs(texts(0.5, 0.5)) == []
    assert as_pairs(dataclasses.replace(texts(0.0, 1.0), preference=None)) == []
    assert len(as_pairs(texts(3, 2, 1))) == 3
    assert len(as_pairs(texts(3, 2, 1), PairRule.BEST_VS_WORST)) == 1


def test_unary_labels_come_from_the_preference_unless_given():
    assert [label for _, label in as_unary(texts(3, 2, 1))] == [1, 1, -1]
    assert [(c.text, label) for c, label in as_unary(texts(3, 2, 1), UnaryRule.ALWAYS)] == [
        ("a", 1),
        ("c", -1),
    ]
    assert as_unary(texts(0.5, 0.5)) == []
    liked = Candidate(text="a", label=-1)
    assert as_unary(Example(prompt="p", candidates=(liked,))) == [(liked, -1)]
    mixed = Example(prompt="p", candidates=(liked, Candidate(text="b")), preference=(1.0, 0.0))
    assert [label for _, label in as_unary(mixed)] == [-1, -1]


def test_ranking_counts_wins_over_the_rewards_that_all_share():  # the RankDPO notes: phi = .5, 0, .75
    first, second = ({"x": 3, "y": 2, "only": 9}, {"x": 1, "y": 2}), {"x": 2, "y": 5}
    members = tuple(Candidate(text=t, scores=s) for t, s in zip("abc", (*first, second), strict=True))
    best_first, phi = as_ranked(Example(prompt="p", candidates=members, preference=(0, 1, 0)))
    assert [c.text for c in best_first] == ["c", "a", "b"]
    assert phi == pytest.approx([0.75, 0.5, 0.0])


def test_ranking_falls_back_on_the_preference():
    best_first, phi = as_ranked(texts(1, 5, 1))
    assert [c.text for c in best_first] == ["b", "a", "c"]
    assert phi == [1.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: Candidate(image=b"x", text="y", where="f: row 2"),
            "f: row 2: a candidate has either an image or a text, got both or none.",
        ),
        (lambda: Candidate(text="y", label=0), "candidate: label must be 1, -1 or none, got 0."),
        (
            lambda: Example(prompt="p", candidates=()),
            "example: an example needs at least one candidate, got none.",
        ),
        (
            lambda: Example(prompt="p", candidates=(Candidate(text="a"),), preference=(1.0, 0.0)),
            "example: preference needs one score per candidate, got 2 scores for 1 candidates.",
        ),
        (lambda: texts(1.0, float("nan")), "example: scores must be finite, got [1.0, nan]."),
        (
            lambda: as_ranked(texts(1.0)),
            "example: cannot be ranked, got 1 candidate(s) and 1 score rows. "
            "A ranked list needs two candidates, and a score for each.",
        ),
        (
            lambda: from_dict({"schema_version": 2}, where="new.parquet"),
            "new.parquet: written in a newer format, got schema version 2. "
            "This Penchant reads up to version 1; update it.",
        ),
    ],
)
def test_what_breaks_the_schema_is_refused(call, message):
    with pytest.raises(DataError) as error:
        call()
    assert str(error.value) == message


def test_an_image_file_that_went_away_is_named(tmp_path):
    lost = Candidate(image=tmp_path / "lost.png", where="f: row 2")
    with pytest.raises(DataError) as error:
        lost.content_hash  # noqa: B018
    assert str(error.value) == "f: row 2: cannot read the image (No such file or directory)."
