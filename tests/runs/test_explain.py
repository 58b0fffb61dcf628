"""What `penchant explain` says before anything is done."""

import dataclasses

import pytest
import yaml
from tests import small

from penchant.runs.explain import explain, options_of
from penchant.runs.load import check


def explained(raw):
    return explain(check(raw, where="run.yaml"), where="run.yaml")


def test_counts_and_bytes_worked_by_hand(options):
    found = explained(options())
    moments = 3 * 4 * found.trainable  # one gradient and two moments in float32
    assert found.optimizer_bytes == moments
    assert found.weights_bytes == 4 * found.parameters
    assert found.epochs == pytest.approx(found.steps * found.batch_size / found.groups)
    assert found.training_seconds == found.steps * found.step_seconds
    assert 0 < found.activation_bytes < 1024**3


def test_full_training_holds_a_copy_as_reference(options):
    full = explained(options(**{"training.mode": "full", "training.lora": small.REMOVED}))
    assert full.weights_bytes == 2 * 4 * full.parameters
    assert full.trainable == full.parameters


def test_activations_grow_with_the_piece_and_shrink_with_checkpointing(options):
    whole = explained(options()).activation_bytes
    half = explained(options(**{"training.micro_batch_size": 1})).activation_bytes
    thrifty = explained(options(**{"training.gradient_checkpointing": True})).activation_bytes
    assert half == pytest.approx(whole / 2, rel=0.05)
    assert thrifty < whole


def test_every_option_is_listed_with_its_value_and_meaning(options):
    run = check(options(), where="run.yaml")
    rows = {name: (value, meaning) for name, value, meaning in options_of(run)}
    assert yaml.safe_load(rows["training.learning_rate"][0]) == run.training.learning_rate
    assert yaml.safe_load(rows["training.betas"][0]) == list(run.training.betas)
    assert rows["health.winner_error_limit"][1].startswith("Rise of the winners' denoising error")
    assert all(meaning for _, meaning in rows.values())


def test_the_sentences(options):
    found = explained(options())
    sentences = dict(found.lines())
    assert "of the denoiser" in sentences["trains"]
    assert "s per step" in sentences["time"]
    assert "of activations" in sentences["memory"]
    sampling = dataclasses.replace(found, groups=None, epochs=None, activation_bytes=None, step_seconds=None)
    assert "prompts in" in dict(sampling.lines())["training"]
    assert dict(sampling.lines())["time"] == "not estimated for methods that sample"
