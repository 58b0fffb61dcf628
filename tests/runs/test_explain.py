"""What `penchant explain` says before anything is done."""

import dataclasses

import pytest
import torch
import yaml
from tests import small

from penchant.runs.explain import explain, options_of
from penchant.runs.load import check
from penchant.runs.memory import rehearsed
from penchant.training.adapters import save_lora
from penchant.training.live_bytes import LiveBytes
from penchant.training.loop import fit


def explained(raw):
    return explain(check(raw, where="run.yaml"), where="run.yaml")


def test_counts_and_bytes_worked_by_hand(options):
    found = explained(options(**{"training.ema": None}))
    moments = 3 * 4 * found.trainable  # one gradient and two moments in float32
    assert found.memory.optimizer == pytest.approx(moments, abs=8192)  # counters and schedules beside them
    assert found.memory.weights == 4 * found.parameters
    assert found.epochs == pytest.approx(found.steps * found.batch_size / found.groups)
    assert found.training_seconds == found.steps * found.step_seconds
    assert 0 < found.memory.activations < 1024**3


def test_what_is_held_beside_the_network_is_counted(options):
    full = {"training.mode": "full", "training.lora": small.REMOVED, "training.ema": None}
    for changes, copies in (({}, 2), ({"training.ema": 0.9}, 3), ({"training.reference.offload": True}, 1)):
        found = explained(options(**{**full, **changes}))
        assert found.memory.weights == copies * 4 * found.parameters
        assert found.trainable == found.parameters


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_run_that_continues_an_adapter(options, tmp_path, precision):
    first = small.assembled(options(**{"training.lora": {"rank": 2}}))
    folder = tmp_path / "adapter"
    save_lora(first.family, folder)
    found = explained(
        options(**{"training.lora": {"start_from": str(folder)}, "training.precision": precision})
    )
    assert found.trainable == sum(p.numel() for p in first.bare.parameters() if p.requires_grad)
    assert 12 * found.trainable == pytest.approx(found.memory.optimizer, abs=8192)


FULL = {"training.mode": "full", "training.lora": small.REMOVED}


@pytest.mark.parametrize(
    "changes",
    [
        FULL,  # every kind of bytes: copy, average, gradients, moments, activations
        {**FULL, "training.micro_batch_size": 1},  # gradients of one piece beside the activations of the next
        {"training.reference": {"kind": "moving"}},
        {"method": "diffusion-kto", "objective": {"beta": 300}},
        {"method": "mapo", "objective": small.REMOVED},
        {"training.lora": {"rank": 2, "text_encoder": True}},
    ],
    ids=["full", "full, in pieces", "moving reference", "unary", "no reference", "text encoder"],
)
def test_the_peak_is_that_of_real_steps(options, tiny_model, changes):
    raw = options(**changes)
    run, parts = check(raw, where="run.yaml"), small.assembled(raw)
    reference = parts.models.reference
    own = [] if reference is None or reference.network is parts.bare else [reference.network]
    with LiveBytes() as live:
        for network in (parts.bare, *own):
            live.count(network.parameters())
        live.count(parts.average.averages.values())
        fit(
            parts.method, parts.models, parts.network, parts.sources.train, parts.optimizer, parts.schedule,
            accelerator=parts.accelerator, steps=2,
        )  # fmt: skip
    tokens = run.training.lora.text_encoder
    condition = {"tokens": torch.empty(1, 16)} if tokens else {"prompt": torch.empty(1, 77, 16)}
    estimated = rehearsed(run, parts.method, tiny_model, condition, where="run.yaml")
    assert estimated.peak == pytest.approx(live.peak, rel=0.1)


def test_fewer_bits_are_fewer_bytes(options):
    wide = {"training.lora.rank": 256}  # large enough for blocks
    found = {
        name: explained(options(**{"training.precision": "bfloat16", "training.ema": None, **changes})).memory
        for name, changes in {
            "bfloat16": {},
            "wide": wide,
            "int8": {"training.quantized": "int8"},
            "nf4": {"training.quantized": "nf4"},
            "few": {"training.optimizer": "adamw-8bit", **wide},
            "fewer": {"training.optimizer": "adamw-4bit", **wide},
            "least": {"training.optimizer": "adafactor"},
        }.items()
    }
    weights = [found[name].weights for name in ("bfloat16", "int8", "nf4")]
    assert weights == sorted(weights, reverse=True) and len(set(weights)) == 3
    assert found["least"].optimizer < found["bfloat16"].optimizer
    assert found["fewer"].optimizer < found["few"].optimizer < found["wide"].optimizer


def test_activations_grow_with_the_piece_and_shrink_with_checkpointing(options):
    whole = explained(options()).memory.activations
    half = explained(options(**{"training.micro_batch_size": 1})).memory.activations
    thrifty = explained(options(**{"training.gradient_checkpointing": True})).memory.activations
    assert half < 0.7 * whole
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
    assert "GiB at the peak" in sentences["memory"]
    sampling = dataclasses.replace(found, groups=None, epochs=None, memory=None, step_seconds=None)
    assert "prompts in" in dict(sampling.lines())["training"]
    for name in ("time", "memory"):
        assert dict(sampling.lines())[name].startswith("not estimated for methods that sample")
