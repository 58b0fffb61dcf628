import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from penchant.cli.data import app
from penchant.data import store
from penchant.errors import PenchantError


def png(*colour):
    out = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(out, "PNG")
    return out.getvalue()


@pytest.fixture
def pairs(tmp_path):
    def write(num_rows=12, **columns):
        path = tmp_path / "pairs.parquet"
        table = {
            "caption": [f"prompt {i}" for i in range(num_rows)],
            "jpg_0": [png(200, i, 0) for i in range(num_rows)],
            "jpg_1": [png(0, i, 200) for i in range(num_rows)],
            "label_0": [1.0] * num_rows,
        }
        pq.write_table(pa.table(table | columns), path)
        return path

    return write


def run(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if isinstance(result.exception, PenchantError):
        raise result.exception
    return result


def refused(*arguments):
    with pytest.raises(PenchantError) as error:
        run(*arguments)
    return str(error.value)


def test_check_of_clean_data_prints_its_counts(pairs):
    path = pairs(3, split=["train", "train", "test"], style_0=["flat"] * 3)
    result = run("check", path)
    assert result.exit_code == 0
    assert result.output.splitlines() == [
        f"file       {path}",
        "rows       3, with 3 pairs",
        "prompts    3 different",
        "images     6 different",
        "preferred  first 3, second 0, tie 0, none 0",
        "sizes      8x8: 6",
        "splits     train 2, test 1",
        f"sha256     {store.read(path).content_hash}",
        "",
        "0 errors, 0 warnings, 0 notes.",
    ]


def test_check_prints_problems_row_by_row_and_fails_on_errors(pairs):
    same = png(1, 2, 3)
    path = pairs(
        4,
        caption=["cat [red]", "", "", ""],
        label_0=[1.0, 0.5, 1.0, 1.0],
        jpg_0=[same, png(1, 1, 1), png(2, 2, 2), png(3, 3, 3)[:-30]],
        jpg_1=[same, png(4, 4, 4), png(5, 5, 5), png(6, 6, 6)],
    )
    result = run("check", path, "--size", 9, "--limit", 2)
    assert result.exit_code == 1
    lines = result.output.splitlines()
    for block in (
        ["error: identical sides (1)", "  row 1: candidates 0 and 1 are the same"],
        ["note: tie (1)", "  row 2: 1 of 1 comparisons are ties"],
        [
            "warning: empty prompt (3)",
            "  row 2: the prompt is empty",
            "  row 3: the prompt is empty",
            "  and 1 more; --limit shows more, --json all",
        ],
    ):
        at = lines.index(block[0])
        assert lines[at : at + len(block)] == block
    at = lines.index("error: unreadable image (1)")
    assert lines[at + 1].startswith("  row 4: column 'jpg_0': damaged or cut off image (")
    assert lines[-1] == "2 errors, 7 warnings, 1 notes."


def test_check_as_json_is_the_whole_report(pairs):
    path = pairs(30, caption=[""] * 30)
    result = run("check", path, "--json")
    report = json.loads(result.stdout)
    assert report["summary"]["empty prompt"]["rows"] == list(range(1, 31))
    assert result.exit_code == 0


def test_the_commands_take_the_names_that_run_files_take(monkeypatch, pairs):
    asked = []
    monkeypatch.setattr("penchant.data.hub.download", lambda name, **rest: asked.append(name) or pairs(3))
    shipped = run("check", "emoji-pairs", "--json", "--split", "validation")
    assert json.loads(shipped.output)["num_rows"] == 206
    assert json.loads(run("check", "owner/pairs@v2", "--json").output)["num_rows"] == 3
    assert asked == ["owner/pairs@v2"]


def test_check_of_one_split(pairs):
    path = pairs(3, split=["train", "train", "test"])
    assert json.loads(run("check", path, "--split", "test", "--json").stdout)["num_rows"] == 1


def test_check_finds_prompts_that_the_shipped_model_cuts(pairs):
    long = "a very long prompt " * 40
    lines = run("check", pairs(2, caption=["cat", long]), "--model", "emoji").output.splitlines()
    assert lines[lines.index("warning: prompt cut (1)") + 1].endswith("tokens, the model reads 20")
    assert lines[0].startswith("file ")


def test_check_names_a_tokenizer_that_is_not_there(pairs, tmp_path):
    assert refused("check", pairs(), "--model", tmp_path / "lost") == (
        f"{tmp_path}/lost: no such folder. Give the folder of a model or of its tokenizer."
    )


def test_only_ties_are_shown_as_an_error_of_the_file(pairs):
    result = run("check", pairs(2, label_0=[0.5, 0.5]))
    assert result.exit_code == 1
    assert (
        "  file: only ties, got 2 of 2 rows with equal scores. At least one row must prefer one candidate."
        in result.output.splitlines()
    )


def test_a_row_that_cannot_be_read_is_listed_by_check_and_one_sentence_elsewhere(pairs, tmp_path):
    path = pairs(3, label_0=[3, 1, 4])
    result = run("check", path)
    lines = result.output.splitlines()
    at = lines.index("error: broken row (2)")
    assert lines[at + 1 : at + 3] == [
        "  row 1: column 'label_0': label must be 0, 0.5 or 1, got 3.",
        "  row 3: column 'label_0': label must be 0, 0.5 or 1, got 4.",
    ]
    assert result.exit_code == 1
    assert refused("convert", path, tmp_path / "out.parquet") == (
        f"{path}: row 1: column 'label_0': label must be 0, 0.5 or 1, got 3."
    )


def test_split_keeps_prompts_together_and_counts(pairs, tmp_path):
    out = tmp_path / "split.parquet"
    result = run(
        "split", pairs(12, caption=[f"p {i // 2}" for i in range(12)]), out, "--shares", "a=0.5,b=0.5"
    )
    headers = store.read(out).headers
    names = [header.split for header in headers]
    assert names[::2] == names[1::2]
    assert result.output == f"{out}: a {names.count('a')} rows, b {names.count('b')} rows.\n"


def test_convert_writes_what_it_read(pairs, tmp_path):
    out = tmp_path / "own.parquet"
    path = pairs(3, split=["x", "y", "x"])
    assert run("convert", path, out, "--split", "x").output == f"{out}: 2 rows.\n"
    assert [e.id for e in store.read(out)] == [e.id for e in store.read(path, split="x")]


@pytest.fixture
def table(tmp_path):
    columns = {"text": ["p", "q"], "a": [png(1, 9, 0), png(2, 9, 0)], "b": [png(3, 9, 0), png(4, 9, 0)]}
    pq.write_table(pa.table(columns | {"won": [1, 0]}), tmp_path / "table.parquet")
    return tmp_path / "table.parquet"


MEANT = ("--column", "prompt=text", "--column", "images=a", "--column", "images=b", "--column", "winner=won")


def test_columns_can_be_typed(table, tmp_path):
    result = run("check", table, *MEANT)
    assert result.exit_code == 0 and "preferred  first 1, second 1, tie 0, none 0" in result.output
    out = tmp_path / "out.parquet"
    assert run("convert", table, out, *MEANT).output == f"{out}: 2 rows.\n"
    assert [(example.prompt, example.preference) for example in store.read(out)] == [
        ("p", (0.0, 1.0)),
        ("q", (1.0, 0.0)),
    ]
    assert run("split", table, tmp_path / "split.parquet", *MEANT, "--shares", "train=1").exit_code == 0


@pytest.mark.parametrize("command", ["check", "convert", "split", "relabel"])
def test_a_column_that_is_not_there_is_the_sentence_of_run_files(table, tmp_path, command):
    more = ["--reward", "compressibility"] if command == "relabel" else []
    out = [] if command == "check" else [tmp_path / "out.parquet", *more]
    assert refused(command, table, *out, "--column", "images=a", "--column", "images=c") == (
        f"{table}: no column 'c' as `columns` names it. There are: text, a, b, won."
    )


@pytest.mark.parametrize(
    ("typed", "sentence"),
    [
        (["promt=text"], "--column: unknown option 'promt'. Did you mean 'prompt'? Known: group, images, "),
        (["prompt=text"], "--column: option 'images' is missing. Columns of the images: "),
        (["images"], "--column images: is not a meaning and its column. Write it as --column prompt=text."),
        (["images=a", "prompt=b", "prompt=c"], "--column: prompt: must be a text, got ['b', 'c']."),
        (
            ["images=a", "images=b", "winner=won", "scores=won"],
            "--column: at most one of scores, ranks, votes, winner, label says what was preferred, got ",
        ),
        (
            ["images=a", "images=b", "scores=won"],
            "--column: scores: needs one column per image column, got 1 for 2.",
        ),
    ],
)
def test_a_map_of_columns_that_makes_no_sense(table, typed, sentence):
    options = [word for assignment in typed for word in ("--column", assignment)]
    assert refused("check", table, *options).startswith(sentence)


def test_build_makes_pairs_from_a_table(tmp_path):
    (tmp_path / "images").mkdir()
    for name, shade in (("a", 0), ("b", 100), ("c", 200)):
        (tmp_path / "images" / f"{name}.png").write_bytes(png(shade, 0, 0))
    table = tmp_path / "scores.csv"
    table.write_text("path,prompt,score\na.png,cat,1\nb.png,cat,2\nc.png,cat,2\n")
    out = tmp_path / "built.parquet"
    result = run("build", tmp_path / "images", table, out, "--rule", "all")
    assert result.output == (
        f"{out}: 2 rows from 1 prompts. Left out: 1 comparisons tied or closer than the gap, "
        "0 images smaller than min-size, 0 prompts with fewer than two images left.\n"
    )
    assert [e.preference for e in store.read(out)] == [(1.0, 0.0)] * 2
    assert refused("build", tmp_path / "images", table, tmp_path / "y.parquet", "--min-size", 9) == (
        f"{table}: zero usable pairs, got 1 prompts: 1 with fewer than two images left, 3 images smaller "
        "than min-size, 0 comparisons tied or closer than the gap."
    )
    assert refused("build", tmp_path / "images", table, tmp_path / "x.parquet", "--min-gap", "-1") == (
        "min-gap: must be >= 0, got -1."
    )


@pytest.mark.parametrize("command", ["split", "convert"])
def test_an_output_that_exists_is_kept_unless_told(pairs, tmp_path, command):
    out = tmp_path / "kept.parquet"
    out.write_bytes(b"precious")
    path = pairs()
    assert refused(command, path, out) == (
        f"{out}: exists already. Choose another name, or replace it with --overwrite."
    )
    assert out.read_bytes() == b"precious"
    assert run(command, path, out, "--overwrite").exit_code == 0
    assert len(store.read(out)) == 12


def test_a_file_may_be_split_in_place(pairs):
    path = pairs()
    before = [example.id for example in store.read(path)]
    run("split", path, path, "--overwrite")
    assert [example.id for example in store.read(path)] == before
    assert {header.split for header in store.read(path).headers} == {"train", "validation", "test"}


def test_shares_in_another_form_are_refused(pairs, tmp_path):
    assert refused("split", pairs(), tmp_path / "out.parquet", "--shares", "train") == (
        "shares: must be like train=0.8,test=0.2, got 'train'."
    )
