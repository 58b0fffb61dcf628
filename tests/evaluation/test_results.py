"""Results: every value survives the file, the keys are the documented ones, wrong files are named."""

import json
import math
from dataclasses import replace

import pytest
import torch

from penchant.errors import DataError, RunFolderError
from penchant.evaluation.comparison import compare
from penchant.evaluation.drift import PairedImages
from penchant.evaluation.results import EvaluationManifest, Results, read_results, write_results
from penchant.rewards.colourfulness import Colourfulness
from penchant.rewards.compressibility import Compressibility

MANIFEST = EvaluationManifest(
    metric="colourfulness",
    unit="M",
    prompt_set="test",
    prompt_hash="0123456789abcdef",
    num_prompts=6,
    num_seeds=2,
    sampler="ddim",
    num_steps=20,
    guidance_scale=4.0,
    precision="float32",
    scorer_version="1",
    tie_margin=0.0,
)


class Brightness:
    name = "brightness"
    unit = "points"
    version = "1"

    def __call__(self, images, prompts):
        return 100 * images.mean(dim=(1, 2, 3))


@pytest.fixture(scope="module")
def results() -> Results:
    generator = torch.Generator().manual_seed(0)
    base = 0.5 + 0.1 * torch.rand(12, 3, 16, 16, generator=generator)
    tuned = base.clone()
    tuned[:, 0] += 0.3
    tuned[:, 1:] -= 0.3
    prompts = [f"prompt {i // 2}" for i in range(12)]
    return compare(
        PairedImages(base=base, tuned=tuned, prompts=prompts),
        manifest=MANIFEST,
        metric=Colourfulness(),
        descriptions=(Compressibility(),),
        caption_match=Brightness(),
        preferred_labels=([False] * 11 + [True], [True] * 12),
        timings={"sampling": 12.5},
        peak_memory=2**30,
    )


def test_the_comparison_finds_what_was_built_in(results):
    assert results.win_rate.value == 1.0
    assert (results.win_rate.n, results.win_rate.num_prompts) == (12, 6)
    assert results.effect_size.mean_difference > 50
    assert results.preferred_share.base.value == pytest.approx(1 / 12)
    assert results.preferred_share.tuned.value == 1.0
    assert results.caption_match.base.value - results.caption_match.tuned.value == pytest.approx(10, abs=1e-3)
    assert {name: score.role for name, score in results.other_scores.items()} == {
        "brightness": "quality",
        "compressibility": "description",
    }
    names = [flag.name for flag in results.drift.flags]
    assert names[:2] == [
        "preferred style up, caption match down",
        "headline score up, other scores down",
    ]
    assert "over-optimisation: saturation" in names
    measures = {flag.name: flag.measure for flag in results.drift.flags}
    assert [measures[name] for name in names[:2]] == ["caption match", None]
    assert measures["over-optimisation: saturation"] == "saturation"


def test_the_headline_score_is_no_witness_for_itself():
    base = torch.full((6, 3, 8, 8), 0.5)
    tuned = torch.cat([base[:, :1] + 0.2, base[:, 1:] - 0.3], dim=1)
    found = compare(
        PairedImages(base=base, tuned=tuned, prompts=[f"prompt {i}" for i in range(6)]),
        manifest=MANIFEST,
        metric=Colourfulness(),
        quality=(Colourfulness(), Brightness()),
    )
    assert "headline score up, other scores down" in [flag.name for flag in found.drift.flags]


def test_scores_that_were_trained_on_are_said_to_be():
    images = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    found = compare(
        PairedImages(base=images, tuned=images.flip(0), prompts=[f"prompt {i}" for i in range(6)]),
        manifest=MANIFEST,
        metric=Colourfulness(),
        quality=(Brightness(),),
        descriptions=(Compressibility(),),
        trained={"colourfulness", "brightness"},
    )
    assert {name: score.role for name, score in found.other_scores.items()} == {
        "brightness": "trained",
        "compressibility": "description",
    }
    flag = found.drift.flags[0]
    assert flag.name == "headline score was trained on"
    assert flag.sentence.startswith(
        "The headline score, colourfulness, is what training aimed at or what made"
    )


def test_without_judges_the_parts_are_empty():
    images = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    plain = compare(
        PairedImages(base=images, tuned=images, prompts=list("abcd")),
        manifest=MANIFEST,
        metric=Colourfulness(),
    )
    assert plain.preferred_share is None
    assert plain.caption_match is None
    assert plain.win_rate.value == 0.5
    assert Results.from_json(plain.to_json()) == plain


def test_round_trip_through_the_file(results, tmp_path):
    write_results(results, tmp_path / "results.json")
    assert read_results(tmp_path / "results.json") == results
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


def test_the_stored_keys_are_the_documented_ones(results):
    rows = json.loads(results.to_json())
    assert set(rows) == {
        "version", "win_rate", "effect_size", "preferred_share", "caption_match", "drift", "other_scores",
        "timings", "peak_memory", "evaluation",
    }  # fmt: skip
    assert {"value", "low", "high", "n", "wins", "ties", "losses", "sign_test_p"} <= set(rows["win_rate"])
    assert {"value", "low", "high"} <= set(rows["preferred_share"]["base"])
    assert {"value", "low", "high"} <= set(rows["caption_match"]["tuned"])
    assert set(rows["drift"]) == {"panel", "flags", "limits"}
    assert {"base", "tuned", "win_rate"} <= set(rows["other_scores"]["compressibility"])


def spoiled(results: Results, change) -> str:
    rows = json.loads(results.to_json())
    change(rows)
    return json.dumps(rows)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda r: r.update(winrate=1), "run/results.json: unknown key 'winrate'. Known: win_rate,"),
        (lambda r: r.pop("drift"), "run/results.json: missing key 'drift'. Needed: win_rate,"),
        (lambda r: r["win_rate"].pop("low"), "run/results.json: win_rate: missing key 'low'"),
        (lambda r: r["win_rate"].update(value="high"), "win_rate: value: needs float, got str 'high'"),
        (lambda r: r["win_rate"].update(n=True), "win_rate: n: needs int, got bool True"),
        (
            lambda r: r["win_rate"].update(interval="t"),
            "interval: not allowed, got 't'. Allowed: wilson",
        ),
        (lambda r: r["drift"]["panel"][2].pop("unit"), "drift: panel[2]: missing key 'unit'"),
        (lambda r: r["drift"].update(flags={}), "drift: flags: needs list, got dict"),
        (lambda r: r.update(other_scores=[]), "other_scores: needs dict, got list"),
        (lambda r: r.update(version=9), "version of the results, got 9. This release reads version 3"),
        (
            lambda r: r.update(version=2),
            "got 2. This release reads version 3; write it again with penchant evaluate",
        ),
    ],
)
def test_a_wrong_file_is_named_with_the_key(results, change, sentence):
    with pytest.raises(DataError) as caught:
        Results.from_json(spoiled(results, change), where="run/results.json")
    assert sentence in str(caught.value)
    assert str(caught.value).startswith("run/results.json:")


def test_files_that_are_no_json_object_or_cannot_be_read(tmp_path):
    for text, sentence in (("{", "not valid JSON"), ("[1]", "needs an object with keys, got list")):
        with pytest.raises(DataError, match=sentence):
            Results.from_json(text)
    with pytest.raises(DataError, match="absent.json: cannot be read"):
        read_results(tmp_path / "absent.json")


def test_writing_into_a_missing_folder_is_a_run_folder_error(results, tmp_path):
    with pytest.raises(RunFolderError, match="cannot be written"):
        write_results(results, tmp_path / "nowhere" / "results.json")


def test_numbers_that_json_does_not_know_are_not_written(results):
    with pytest.raises(ValueError, match="not JSON compliant"):
        replace(results, timings={"sampling": math.nan}).to_json()
