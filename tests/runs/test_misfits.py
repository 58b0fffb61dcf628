"""Options that a run would not read are refused, each with its place and the way out."""

import pytest
from tests import small

from penchant.errors import ConfigError
from penchant.runs.assemble import method_of
from penchant.runs.load import check
from penchant.runs.schema import Reference, Training

HELD_OUT = {"heldout_every": 3, "heldout_examples": 5, "heldout_draws": 3}
DEFAULTS = {"heldout_every": 50, "heldout_examples": 64, "heldout_draws": 4}
SAMPLES = {
    "method": "d3po",
    "objective": {},
    "online": {"reward": "compressibility"},
    "training.batch_size": small.REMOVED,
    "training.micro_batch_size": small.REMOVED,
}


def of(options, **changes):
    return method_of(check(options(**changes), where="run.yaml"), where="run.yaml")


def test_what_differs_from_the_defaults():
    training = Training(steps=1, ema=0.5, batch_size=32, reference=Reference(kind="copy"))
    assert training.changed("ema", "batch_size", "lora", "reference") == ["ema", "reference"]
    assert training.changed("steps") == ["steps"], "what has no default"


@pytest.mark.parametrize("name", HELD_OUT)
def test_held_out_options_without_held_out_groups(options, name):
    option = f"training.{name}"
    with pytest.raises(ConfigError) as caught:
        of(options, **{"data.heldout_split": None, option: HELD_OUT[name]})
    assert str(caught.value) == (
        f"run.yaml: {option}: nothing is measured during training with data.heldout_split: null. Remove it, "
        "or name a split there."
    )
    with pytest.raises(ConfigError) as caught:
        of(options, **SAMPLES, **{option: HELD_OUT[name]})
    assert str(caught.value) == (
        f"run.yaml: {option}: a method that samples the model reads no stored images. Remove it."
    )


@pytest.mark.parametrize("changes", [{}, SAMPLES], ids=["stored", "samples"])
def test_defaults_that_are_written_out_are_no_misfit(options, changes):
    written = {f"training.{name}": value for name, value in DEFAULTS.items()}
    run = check(options(**changes, **written, **{"data.heldout_split": None}), where="run.yaml")
    again = check(run.model_dump(mode="json"), where="run.yaml")
    assert method_of(again, where="run.yaml").name == run.method


@pytest.mark.parametrize(
    ("evaluation", "sentence"),
    [
        (
            {"metric": "clip-score", "preferred_style": "noto"},
            "preferred_style: is only read by metric 'style', got metric 'clip-score'. Remove "
            "preferred_style, or the metric.",
        ),
        (
            {"metric": {"kind": "style", "style": "noto"}, "preferred_style": "noto"},
            "preferred_style: is only read by metric 'style', got metric {'kind': 'style', 'style': 'noto'}. "
            "Remove preferred_style, or the metric.",
        ),
        (
            {"seeds_per_prompt": 2, "diversity_prompts": 3},
            "diversity_prompts: is only read with one seed per prompt, got seeds_per_prompt 2, which show "
            "the diversity by themselves. Remove diversity_prompts.",
        ),
    ],
)
def test_options_of_the_evaluation_that_nothing_reads(options, evaluation, sentence):
    with pytest.raises(ConfigError) as caught:
        check(options(evaluation=evaluation), where="run.yaml")
    assert str(caught.value) == f"run.yaml: evaluation.{sentence}"


def test_options_of_the_evaluation_that_are_read(options):
    for evaluation in (
        {"preferred_style": "noto"},
        {"metric": "style", "preferred_style": "noto"},
        {"metric": "clip-score", "preferred_style": "fluent"},
        {"diversity_prompts": 0},
        {"seeds_per_prompt": 2, "diversity_prompts": 16},
    ):
        check(options(evaluation=evaluation), where="run.yaml")
