"""Prompt sets: each reader, the hash, and the sentences for wrong files."""

import hashlib

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from penchant.errors import DataError
from penchant.evaluation.suites import PromptSuite, prompt_suite, read_suite

PROMPTS = ("a red fox", "two cups, \"blue\"", "ein Bär")  # fmt: skip


def test_each_prompt_once_in_its_first_order_and_none_that_is_empty():
    assert prompt_suite("x", ["b ", "", "a", "b"], where="w") == PromptSuite("x", ("b", "a"))
    with pytest.raises(DataError, match="^w: no prompts, got 0"):
        prompt_suite("x", [" "], where="w")


def write(folder, name: str, text: str):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_every_kind_of_file_gives_the_same_prompts_and_hash(tmp_path):
    pq.write_table(pa.table({"caption": [*PROMPTS, PROMPTS[0], None, " "]}), tmp_path / "p.parquet")
    (tmp_path / "own").mkdir()
    pq.write_table(
        pa.table({"prompt": PROMPTS, "split": ["test"] * len(PROMPTS)}), tmp_path / "own" / "p.parquet"
    )
    files = [
        write(tmp_path, "p.txt", "\ufeff" + "\n".join(PROMPTS) + "\n\n  a red fox \n"),
        write(
            tmp_path, "p.jsonl", '{"prompt": "a red fox"}\n\n{"caption": "two cups, \\"blue\\""}\n"ein Bär"'
        ),
        tmp_path / "p.parquet",
        tmp_path / "own" / "p.parquet",
        write(tmp_path, "p.tsv", "Prompt\tCategory\n" + "".join(f"{p}\tx\n" for p in PROMPTS)),
    ]
    suites = [read_suite(path) for path in files]
    assert all(suite == PromptSuite("p", PROMPTS) for suite in suites)
    assert len({suite.hash for suite in suites}) == 1


def test_the_hash_is_of_the_prompts_in_order_and_not_of_the_name():
    text = '["a", "b"]'
    assert PromptSuite("x", ("a", "b")).hash == hashlib.sha256(text.encode()).hexdigest()[:16]
    assert PromptSuite("y", ("a", "b")).hash == PromptSuite("x", ("a", "b")).hash
    assert PromptSuite("x", ("b", "a")).hash != PromptSuite("x", ("a", "b")).hash
    assert PromptSuite("x", ("a, b",)).hash != PromptSuite("x", ("a", "b")).hash


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("p.csv", "a", "unknown kind of prompt file, got '.csv'. Known: .txt, .jsonl, .parquet, .tsv."),
        ("p.txt", "\n \n", "no prompts, got 0"),
        ("p.jsonl", "{", "line 1 is not JSON"),
        ("p.jsonl", "1" * 5000, "line 1 is not JSON"),
        ("p.jsonl", '"ok"\n{"text": "a"}', "line 2 has no prompt"),
        ("p.tsv", "Text\na\n", "missing column 'Prompt', got ['Text']"),
        ("p.parquet", "no parquet", "cannot be read"),
    ],
)
def test_wrong_files_are_named(tmp_path, name, text, sentence):
    path = write(tmp_path, name, text)
    with pytest.raises(DataError) as caught:
        read_suite(path)
    assert str(caught.value).startswith(f"{path}:")
    assert sentence in str(caught.value)


def test_a_missing_file_and_a_missing_column(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        read_suite(tmp_path / "absent.txt")
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "p.parquet")
    with pytest.raises(DataError, match="missing column 'caption' or 'prompt', got text"):
        read_suite(tmp_path / "p.parquet")
