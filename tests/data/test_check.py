import json

import pytest

from penchant.data import store
from penchant.data.check import check
from penchant.data.columns import Columns
from penchant.data.report import Kind, Problem, Severity
from penchant.errors import DataError


class Words:
    """A tokenizer of words, with marks for start and end."""

    model_max_length = 5

    def __call__(self, text):
        return {"input_ids": [0, *range(len(text.split())), 0]}


def found(report, kind):
    return [(problem.row, problem.text) for problem in report.problems if problem.kind is kind]


def kinds(report):
    return {problem.kind for problem in report.problems}


def test_clean_data_has_counts_and_no_problems(pickapic):
    path = pickapic(
        4,
        label_0=[1.0, 0.0, 1.0, 1.0],
        style_0=["flat", "glossy", "flat", "flat"],
        style_1=["glossy"] * 4,
        split=["train", "train", "train", "test"],
    )
    report = check(store.read(path), tokenizer=Words(), size=8)
    assert report.problems == []
    assert (report.num_rows, report.num_pairs, report.num_prompts, report.num_images) == (4, 4, 4, 8)
    assert report.preferred == {"first": 3, "second": 1, "tie": 0, "none": 0}
    assert report.sizes == {"8x8": 8}
    assert report.splits == {"train": 3, "test": 1}
    assert report.styles == {"flat": [3, 0], "glossy": [1, 4]}
    assert report.content_hash == store.read(path).content_hash


def test_unreadable_images_are_found_and_the_other_rows_are_still_checked(pickapic, encoded):
    cut = encoded("red")[:-30]
    path = pickapic(4, jpg_0=[encoded("red"), cut, cut, b""], jpg_1=[b"junk"] + [encoded("blue")] * 3)
    found_here = found(check(store.read(path)), Kind.UNREADABLE)
    assert [row for row, _ in found_here] == [1, 2, 3, 4]
    assert found_here[0][1] == "column 'jpg_1': not an image. Known: PNG, JPEG, WEBP, GIF, BMP, TIFF."
    assert found_here[1][1].startswith("column 'jpg_0': damaged or cut off image (")
    assert found_here[3][1] == "column 'jpg_0': no image, got 0 bytes."


def broken(path, **options):
    return found(check(store.read(path, keep_broken=True, **options)), Kind.BROKEN)


def test_every_line_that_cannot_be_read_is_listed_with_its_number(tmp_path, encoded):
    for name in ("a", "b"):
        (tmp_path / f"{name}.png").write_bytes(encoded(name == "a" and "red" or "blue"))
    good = {"prompt": "p", "chosen": "a.png", "rejected": "b.png", "split": "train"}
    lines = ["not JSON", "", good, good | {"chosen": "c.png"}, good | {"rejected": "d.png", "split": "test"}]
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    report = check(store.read(path, keep_broken=True))
    assert found(report, Kind.BROKEN) == [
        (1, "not JSON, Expecting value at character 1."),
        (4, f"no such file, got 'c.png'. Paths are relative to {tmp_path}."),
        (5, f"no such file, got 'd.png'. Paths are relative to {tmp_path}."),
    ]
    assert (report.num_rows, report.num_pairs, report.splits) == (4, 1, {"train": 1})
    assert [row for row, _ in broken(path, split="train")] == [1, 4]
    with pytest.raises(DataError, match="line 1: not JSON"):
        store.read(path)


def test_every_row_with_a_wrong_label_is_listed(tmp_path, pickapic):
    path = pickapic(4, label_0=[2.0, 1.0, 3.0, 1.0], label_1=[0.0, 0.0, 0.0, 1.0])
    assert [row for row, _ in broken(path)] == [1, 3, 4]
    columns = Columns(prompt="caption", images=("jpg_0", "jpg_1"), winner="label_0", split="part")
    path = pickapic(4, label_0=[2, 1, 0, 7], label_1=[0] * 4, part=["a", "a", "b", "b"])
    assert broken(path, columns=columns, split="a") == [
        (1, "column 'label_0': must be the number of the preferred image, 0 to 1, got 2.")
    ]


def test_every_sample_and_every_task_that_cannot_be_read_is_listed(tmp_path, tar, encoded):
    whole = [("b.0.png", encoded()), ("b.1.png", encoded("blue")), ("b.json", b'{"prompt": "p"}')]
    path = tar([("a.json", b"["), *whole, ("c.0.png", encoded()), ("c.json", b'{"prompt": "p"}')])
    assert [row for row, _ in broken(path)] == [1, 3]
    tasks = [{"data": data, "annotations": []} for data in (None, {"l": "l.png", "r": "r.png"}, {})]
    path = tmp_path / "project.json"
    path.write_text(json.dumps(tasks))
    for side in ("l", "r"):
        (tmp_path / f"{side}.png").write_bytes(encoded())
    assert broken(path) == [
        (1, "task 1: key 'data': must be an object, got null."),
        (3, "task 3: needs two images in its data, got none."),
    ]


def test_an_image_file_that_went_away_is_named(tmp_path, encoded):
    for name, colour in (("a", "red"), ("b", "blue")):
        (tmp_path / f"{name}.png").write_bytes(encoded(colour))
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"prompt": "p", "chosen": "a.png", "rejected": "b.png"}')
    data = store.read(path)
    (tmp_path / "b.png").unlink()
    with pytest.raises(DataError) as error:
        check(data)
    assert str(error.value) == f"{tmp_path}/b.png: cannot be read (No such file or directory)."


def test_prompts_that_are_empty_or_far_too_long_are_found(pickapic):
    path = pickapic(4, caption=["fine", "", " \n", "x" * 10_000])
    report = check(store.read(path))
    assert found(report, Kind.EMPTY_PROMPT) == [(2, "the prompt is empty"), (3, "the prompt is empty")]
    assert found(report, Kind.HUGE_PROMPT) == [
        (4, "the prompt has 10000 characters; a text encoder reads a few hundred")
    ]


def test_a_long_prompt_of_texts_is_no_mistake(tmp_path):
    path = tmp_path / "texts.jsonl"
    path.write_text(json.dumps({"prompt": "x" * 10_000, "chosen": "a", "rejected": "b"}))
    assert kinds(check(store.read(path))) == set()


def test_prompts_that_the_tokenizer_cuts_are_found_with_both_counts(pickapic):
    path = pickapic(2, caption=["three small words", "now four small words"])
    report = check(store.read(path), tokenizer=Words())
    assert found(report, Kind.CUT_PROMPT) == [(2, "the prompt has 6 tokens, the model reads 5")]
    assert found(check(store.read(path)), Kind.CUT_PROMPT) == []


def test_ties_and_unjudged_rows_are_found(pickapic):
    report = check(store.read(pickapic(3, label_0=[1.0, 0.5, None])))
    assert found(report, Kind.TIE) == [(2, "1 of 1 comparisons are ties")]
    assert found(report, Kind.UNJUDGED) == [(3, "nobody has judged the row")]
    assert report.preferred == {"first": 1, "second": 0, "tie": 1, "none": 1}
    assert report.num_pairs == 1


def test_only_ties_and_zero_usable_rows_are_errors_of_the_file(pickapic):
    ties = check(store.read(pickapic(2, label_0=[0.5, 0.5])))
    assert found(ties, Kind.UNUSABLE) == [
        (None, "only ties, got 2 of 2 rows with equal scores. At least one row must prefer one candidate.")
    ]
    nobody = check(store.read(pickapic(2, label_0=[0.5, None])))
    assert [row for row, _ in found(nobody, Kind.UNUSABLE)] == [None]


def test_identical_sides_are_found(pickapic, encoded):
    path = pickapic(2, jpg_1=[encoded((200, 0, 0)), encoded("blue")])
    report = check(store.read(path))
    assert found(report, Kind.IDENTICAL) == [(1, "candidates 0 and 1 are the same")]


def test_duplicates_and_contradictions_are_found_whichever_side_they_are_on(pickapic, encoded):
    red, blue = encoded("red"), encoded("blue")
    path = pickapic(
        5,
        caption=["p", "P ", "p", "p", "q"],
        jpg_0=[red, blue, red, red, red],
        jpg_1=[blue, red, blue, blue, blue],
        label_0=[1.0, 0.0, 0.0, 0.5, 1.0],
    )
    report = check(store.read(path))
    assert found(report, Kind.DUPLICATE) == [
        (2, "same prompt and candidates as row 1"),
        (4, "same prompt and candidates as row 1"),
    ]
    assert found(report, Kind.CONTRADICTION) == [(3, "row 1 prefers the other of the same pair")]
    assert found(report, Kind.SHARED_IMAGE) == [(5, "the image is also in row 1")] * 2


def test_leaks_of_prompts_and_of_images_between_splits_are_found(pickapic, encoded):
    path = pickapic(
        4,
        caption=["cat", "dog", " Cat", "cat"],
        jpg_0=[encoded("red"), encoded("green"), encoded("blue"), encoded("black")],
        jpg_1=[encoded("white"), encoded("gray"), encoded("green"), encoded("pink")],
        split=["train", "train", "test", "train"],
    )
    report = check(store.read(path))
    assert found(report, Kind.PROMPT_LEAK) == [(3, "in 'test', and row 1 in 'train'")]
    assert found(report, Kind.IMAGE_LEAK) == [(3, "in 'test', and row 2 in 'train'")]
    assert kinds(check(store.read(path, split="train"))) == set()


def test_images_smaller_than_the_target_and_sides_of_two_sizes_are_found(pickapic, encoded):
    path = pickapic(
        2, jpg_0=[encoded("red", (8, 20)), encoded("green", (9, 9))], jpg_1=[encoded("blue", (9, 9))] * 2
    )
    report = check(store.read(path), size=9)
    assert found(report, Kind.UPSCALED) == [(1, "short side of 8 px would be enlarged to 9")]
    assert found(report, Kind.SIZES_DIFFER) == [(1, "8x20, 9x9")]
    assert report.sizes == {"9x9": 3, "8x20": 1}
    assert found(check(store.read(path)), Kind.UPSCALED) == []


def test_the_report_is_plain_data(pickapic, encoded):
    path = pickapic(3, caption=["", "", "x"], label_0=[0.5, 1.0, 1.0])
    report = check(store.read(path))
    plain = json.loads(json.dumps(report.to_dict()))
    assert plain["num_rows"] == 3
    assert plain["summary"]["empty prompt"] == {"severity": "warning", "count": 2, "rows": [1, 2]}
    assert plain["problems"][0] == {
        "kind": "empty prompt",
        "severity": "warning",
        "row": 1,
        "text": "the prompt is empty",
    }
    assert report.num_of(Severity.WARNING) == 2
    assert report.num_of(Severity.NOTE) == 1
    assert report.num_of(Severity.ERROR) == 0
    assert report.rows(Kind.TIE) == [1]


@pytest.mark.parametrize("kind", Kind)
def test_every_kind_has_a_severity(kind):
    assert Problem(kind, 1, "").severity in Severity
