import json

import pytest
from PIL import Image

from penchant.data.build import BuildRule, build
from penchant.data.rows import as_ranked
from penchant.errors import ConfigError, DataError


@pytest.fixture
def folder(tmp_path, encoded):
    (tmp_path / "images").mkdir()
    for name in "abcdef":
        (tmp_path / "images" / f"{name}.png").write_bytes(encoded((ord(name), 0, 0)))
    return tmp_path / "images"


@pytest.fixture
def scores(tmp_path):
    def write(*rows, name="scores.csv", header="path,prompt,score"):
        path = tmp_path / name
        path.write_text("\n".join([header, *rows]) + "\n")
        return path

    return write


ROWS = ("a.png,cat,1", "b.png,cat,3", "c.png,cat,3", "d.png,dog,2", "e.png,dog,2.5", "f.png,owl,9")


def pairs(built):
    return [(e.prompt, *(c.image.stem for c in e.candidates)) for e in built.examples]


def test_best_against_worst(folder, scores):
    built = build(folder, scores(*ROWS), BuildRule.BEST_VS_WORST)
    assert pairs(built) == [("cat", "b", "a"), ("dog", "e", "d")]
    assert (built.num_prompts, built.num_single, built.num_ties) == (3, 1, 0)
    first = built.examples[0]
    assert first.preference == (1.0, 0.0)
    assert first.candidates[0].scores == {"score": 3.0}
    assert first.provenance == {
        "table": "scores.csv",
        "rule": "best-vs-worst",
        "min_gap": 0.0,
        "min_size": None,
    }


def test_all_pairs_and_ties(folder, scores):
    built = build(folder, scores(*ROWS), BuildRule.ALL)
    assert pairs(built) == [("cat", "b", "a"), ("cat", "c", "a"), ("dog", "e", "d")]
    assert built.num_ties == 1


def test_a_gap_leaves_out_close_pairs(folder, scores):
    built = build(folder, scores(*ROWS), BuildRule.ALL, min_gap=1)
    assert pairs(built) == [("cat", "b", "a"), ("cat", "c", "a")]
    assert built.num_ties == 2


def test_small_images_are_left_out_before_anything_is_compared(folder, scores):
    Image.new("RGB", (40, 5)).save(folder / "b.png")
    built = build(folder, scores(*ROWS), BuildRule.ALL, min_size=6)
    assert pairs(built) == [("cat", "c", "a"), ("dog", "e", "d")]
    assert (built.num_small, built.num_single, built.num_ties) == (1, 1, 0)
    assert built.examples[0].provenance["min_size"] == 6
    assert build(folder, scores(*ROWS), BuildRule.ALL, min_size=5).num_small == 0


def test_a_random_pair_belongs_to_the_prompt_not_to_the_table(folder, scores):
    rows = [f"{name}.png,cat,{ord(name)}" for name in "abcdef"]
    ((_, winner, loser),) = pairs(build(folder, scores(*rows), BuildRule.RANDOM))
    assert winner > loser
    more = [*rows[:5], "f.png,owl,9"]  # another prompt changes nothing, other candidates do
    again = pairs(build(folder, scores("f.png,owl,9", *rows[:5]), BuildRule.RANDOM))
    assert again == pairs(build(folder, scores(*more), BuildRule.RANDOM))


def test_lists_keep_every_image_and_its_score(folder, scores):
    built = build(folder, scores(*ROWS), BuildRule.LIST)
    assert pairs(built) == [("cat", "a", "b", "c"), ("dog", "d", "e")]
    assert built.examples[0].preference == (1.0, 3.0, 3.0)
    assert as_ranked(built.examples[0])[1] == [0.5, 0.5, 0.0]


def test_other_columns_are_kept_with_the_image(folder, scores):
    table = scores(
        'a.png,"a cat, red",1,sdxl,7,',
        'b.png,"a cat, red",2,sd15,8,MIT',
        header="path,prompt,score,source,seed,license",
    )
    (example,) = build(folder, table, BuildRule.ALL).examples
    winner, loser = example.candidates
    assert (winner.source, winner.license, winner.meta) == ("sd15", "MIT", {"seed": "8"})
    assert (loser.source, loser.license, loser.meta) == ("sdxl", None, {"seed": "7"})


def test_a_jsonl_table_says_the_same_as_a_csv_table(folder, scores, tmp_path):
    table = tmp_path / "scores.jsonl"
    rows = [dict(zip(("path", "prompt", "score"), row.split(","), strict=True)) for row in ROWS]
    table.write_text("\n\n".join(json.dumps({**row, "score": float(row["score"])}) for row in rows))
    assert pairs(build(folder, table, BuildRule.ALL)) == pairs(build(folder, scores(*ROWS), BuildRule.ALL))


def refused(folder, table, rule=BuildRule.ALL, kind=DataError, **options):
    with pytest.raises(kind) as error:
        build(folder, table, rule, **options)
    return str(error.value)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("b.png,cat,high", "column 'score': must be a number, got 'high'."),
        ("b.png,cat,nan", "column 'score': must be a number, got 'nan'."),
        ("b.png,cat", "column 'score': missing. Needed: path, prompt, score."),
        ("b.png,cat,big,3", "more values than columns. Put text with commas in double quotes."),
        ("a.png,cat,3", "the same image as in line 2, got 'a.png'. Keep one score."),
    ],
)
def test_a_wrong_row_is_named(folder, scores, row, message):
    table = scores("a.png,cat,1", row)
    assert refused(folder, table) == f"{table}: line 3: {message}"


def test_paths_are_those_of_the_folder(folder, scores):
    table = scores("lost.png,cat,1")
    assert refused(folder, table) == (
        f"{table}: line 2: no such file, got 'lost.png'. Paths are relative to {folder}."
    )
    table = scores("../scores.csv,cat,1")
    assert refused(folder, table) == (
        f"{table}: line 2: path leads out of the folder, got '../scores.csv'. "
        f"Write paths relative to {folder} and keep the files in it."
    )


def test_a_table_that_is_not_one_is_refused(folder, scores, tmp_path):
    table = scores()
    assert refused(folder, table) == f"{table}: no rows."
    table = scores(*ROWS, name="scores.txt")
    assert refused(folder, table) == f"{table}: unknown type of table, got '.txt'. Known: .csv, .jsonl."
    lost = tmp_path / "lost.csv"
    assert refused(folder, lost) == f"{lost}: no such file."
    assert refused(tmp_path / "lost", table) == f"{tmp_path / 'lost'}: no such folder."
    table = scores("a.png,cat,1")
    table.write_bytes(table.read_bytes() + b"b.png,\xff,1\n")
    assert refused(folder, table).endswith("invalid start byte).")


def test_nothing_to_compare_is_refused(folder, scores):
    table = scores("a.png,cat,1", "b.png,cat,1", "c.png,dog,1")
    expected = (
        f"{table}: zero usable pairs, got 2 prompts: 1 with fewer than two images left, "
        "0 images smaller than min-size, 1 comparisons tied or closer than the gap."
    )
    assert refused(folder, table) == expected


def test_a_gap_that_means_nothing_is_refused(folder, scores):
    table = scores(*ROWS)
    assert refused(folder, table, kind=ConfigError, min_gap=-1) == "min-gap: must be >= 0, got -1."
    assert refused(folder, table, BuildRule.LIST, ConfigError, min_gap=1) == (
        "min-gap: a list keeps all images, got rule list and 1. Leave it out."
    )
