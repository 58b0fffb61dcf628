"""The reference is what training started from, in every mode, and nothing of it ever trains."""

import pytest
import torch
from tests import small

from penchant.errors import PenchantError
from penchant.training.loop import Record, accumulate
from penchant.training.reference import starting_point


def one_step(parts, step=0):
    """Outputs of a step and the gradient of every parameter that has one."""
    parts.optimizer.zero_grad()
    outputs = accumulate(
        parts.method, parts.models, parts.network, parts.sources.train(step), parts.accelerator
    )
    gradients = {n: p.grad.clone() for n, p in parts.bare.named_parameters() if p.grad is not None}
    return outputs, gradients


def update(parts, step=0):
    one_step(parts, step)
    parts.optimizer.step()
    parts.optimizer.zero_grad()


def probe(parts):
    """Predictions of policy and reference on one batch."""
    batch = parts.sources.train(0).micro[0]
    rows = batch.latents[:, 0]
    condition = {name: value[:, 0] for name, value in batch.condition.items()}
    inputs = (rows, torch.full((len(rows),), 300), condition)
    with torch.no_grad():
        return parts.models.policy(*inputs), parts.models.reference(*inputs)


def margins(outputs):
    return torch.cat([output.measured["margin/mean"] for output in outputs])


LORA = {"objective": {"beta": 5000}}


@pytest.mark.parametrize(
    "changes",
    [{}, *({"training.precision": "bfloat16", "training.quantized": kind} for kind in (None, "int8", "nf4"))],
    ids=["float32", "bfloat16", "int8", "nf4"],
)
def test_adapters_off_gives_margin_exactly_zero_and_only_the_adapter_learns(options, changes):
    parts = small.assembled(options(**LORA, **changes, **{"training.micro_batch_size": 4}))
    frozen = {n: p.clone() for n, p in parts.bare.named_parameters() if ".default." not in n}
    trained = {n for n, p in parts.bare.named_parameters() if p.requires_grad}
    assert trained == {n for n, _ in parts.bare.named_parameters() if ".default." in n}
    _, before = probe(parts)
    outputs, gradients = one_step(parts)
    assert margins(outputs).tolist() == [0, 0, 0, 0]
    assert outputs[0].loss.item() == pytest.approx(0.693147, abs=1e-6)
    assert gradients.keys() == trained
    assert {n for n, p in parts.bare.named_parameters() if p.requires_grad} == trained, "after the reference"
    moved = {name for name, gradient in gradients.items() if gradient.abs().sum() > 0}
    assert moved == {name for name in trained if "lora_B" in name}, "A moves once B is no longer 0"
    parts.optimizer.step()
    outputs, gradients = one_step(parts, 1)
    assert all(gradient.abs().sum() > 0 for gradient in gradients.values())
    assert margins(outputs).abs().min() > 0
    policy, after = probe(parts)
    assert torch.equal(after, before) and not torch.equal(policy, after)
    assert policy.dtype is (torch.bfloat16 if changes else torch.float32)
    assert all(torch.equal(p, frozen[n]) for n, p in parts.bare.named_parameters() if n in frozen)
    assert all(p.dtype is torch.float32 for p in parts.bare.parameters() if p.requires_grad)


def test_the_policy_is_back_after_the_reference_even_if_it_fails(options):
    parts = small.assembled(options())
    update(parts)
    policy, _ = probe(parts)
    with pytest.raises(ZeroDivisionError), starting_point(parts.bare):
        raise ZeroDivisionError
    assert torch.equal(probe(parts)[0], policy)


def test_a_continued_adapter_is_measured_against_where_it_starts(options, tmp_path):
    first, _ = small.train(options(**{"training.ema": None, "training.lora.alpha": 6}))
    bare = small.assembled(options())
    continued = small.assembled(options(**{"training.lora": {"start_from": str(first.adapter)}}))
    start = {n: p.clone() for n, p in continued.bare.named_parameters() if ".start." in n}
    policy, reference = probe(continued)
    assert start and torch.equal(policy, reference)
    assert not torch.allclose(reference, probe(bare)[1], atol=1e-5), "it is not the bare base"
    outputs, gradients = one_step(continued)
    assert margins(outputs).abs().max() == 0
    assert gradients.keys() == {n for n, _ in continued.bare.named_parameters() if ".default." in n}
    assert all(gradient.abs().sum() > 0 for gradient in gradients.values())
    update(continued)
    assert torch.equal(probe(continued)[1], reference)
    assert not torch.equal(probe(continued)[0], reference)
    assert all(torch.equal(p, start[n]) for n, p in continued.bare.named_parameters() if n in start)
    assert {n for n, p in continued.bare.named_parameters() if p.requires_grad} == gradients.keys()


def test_full_fine_tuning_is_measured_against_a_copy_that_stays(options):
    changes = {"training.mode": "full", "training.lora": small.REMOVED, "training.micro_batch_size": 4}
    parts = small.assembled(options(**LORA, **changes))
    copy = parts.models.reference.network
    before = {name: value.clone() for name, value in copy.state_dict().items()}
    outputs, gradients = one_step(parts)
    assert margins(outputs).tolist() == [0, 0, 0, 0]
    assert gradients.keys() == {n for n, _ in parts.bare.named_parameters()}
    update(parts)
    assert all(torch.equal(value, before[name]) for name, value in copy.state_dict().items())
    assert all(p.grad is None and not p.requires_grad for p in copy.parameters())
    policy, reference = probe(parts)
    assert not torch.equal(policy, reference)


def test_a_method_without_reference_keeps_none(options):
    parts = small.assembled(
        options(method="mapo", objective={}, **{"training.mode": "full"} | {"training.lora": small.REMOVED})
    )
    assert parts.models.reference is None


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_gradient_checkpointing_gives_the_same_gradients(options, precision):
    changes = LORA | {"training.precision": precision}
    plain, saving = (
        small.assembled(options(**changes, **{"training.gradient_checkpointing": on})) for on in (False, True)
    )
    assert saving.bare.is_gradient_checkpointing
    for parts in (plain, saving):
        update(parts)
    (_, expected), (_, got) = one_step(plain, 1), one_step(saving, 1)
    assert got.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(got[name], gradient)


@pytest.mark.parametrize(
    "changes", [{"training.lora": {"rank": 2}}, {"training.mode": "full"}], ids=["lora", "full"]
)
def test_a_copy_and_an_offloaded_copy_say_what_the_switched_adapter_says(options, changes):
    changes = {**LORA, **changes}
    if changes.get("training.mode"):
        changes["training.lora"] = small.REMOVED
    outputs = []
    for reference in ({}, {"kind": "copy"}, {"kind": "copy", "offload": True}):
        parts = small.assembled(options(**changes, **{"training.reference": reference}))
        update(parts)
        outputs.append((margins(one_step(parts, 1)[0]), probe(parts)[1]))
    assert outputs[0][0].abs().min() > 0
    for margin, prediction in outputs[1:]:
        assert torch.equal(margin, outputs[0][0]) and torch.equal(prediction, outputs[0][1])


def test_an_offloaded_copy_holds_nothing_on_the_device_between_calls(options):
    parts = small.assembled(options(**LORA, **{"training.reference": {"kind": "copy", "offload": True}}))
    network = parts.models.reference.network
    probe(parts)
    assert all(p.is_meta for p in network.parameters())
    assert not any(p.is_meta for p in parts.bare.parameters())


def test_a_moving_reference_takes_the_policy_over_and_the_margin_starts_again(options, tmp_path):
    changes = {**LORA, "training.reference": {"kind": "moving", "every": 2}, "training.learning_rate": 0.01}
    changes["training.heldout_every"] = 1
    once, _ = small.train(options(**changes, **{"training.steps": 4}), output=tmp_path / "once")
    rows = [row for row in small.metrics(once.path) if row["split"] == "train"]
    moved = [row["log_ratio/winner"] != 0 for row in rows]
    assert moved == [False, True, False, True]
    assert rows[2]["loss"] == pytest.approx(0.693147, abs=1e-6)
    twice = tmp_path / "twice"
    small.train(options(**changes, **{"training.steps": 3}), output=twice)
    small.train(options(**changes, **{"training.steps": 4}), output=twice, resume=True)
    assert small.metrics(twice) == small.metrics(once.path)


def test_a_softly_moving_reference_is_the_mixture(options):
    reference = {"kind": "moving", "mix": 0.25, "every": 3}
    parts = small.assembled(
        options(
            **LORA,
            **{"training.mode": "full", "training.lora": small.REMOVED, "training.reference": reference},
        )
    )
    name, weight = next(iter(parts.bare.named_parameters()))
    frozen = dict(parts.models.reference.network.named_parameters())[name]
    before = frozen.clone()
    with torch.no_grad():
        weight += 1
    for step in (1, 2):
        parts.moving.follow(Record(step=step))
        assert torch.equal(frozen, before)
    parts.moving.follow(Record(step=3))
    torch.testing.assert_close(frozen, before + 0.25)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"training.reference": {"kind": "moving", "mix": 0.5}}, "reference.mix must be 1 with mode 'lora'"),
        ({"training.reference": {"every": 3}}, "every: is only read by kind 'moving', got kind 'start'"),
        (
            {"training.reference": {"offload": True}},
            "reference.offload is for a frozen copy, got mode 'lora'",
        ),
        (
            {"training.reference": {"kind": "copy"}, "method": "mapo"},
            "method 'mapo' has no reference and does",
        ),
    ],
)
def test_options_of_another_kind_of_reference_are_refused(options, changes, sentence):
    raw = options(**{"objective": {}} | changes)
    with pytest.raises(PenchantError, match=sentence):
        small.assembled(raw)


def test_full_fine_tuning_without_a_reference_holds_one_network(options):
    parts = small.assembled(
        options(method="mapo", **{"objective": {}, "training.mode": "full", "training.lora": small.REMOVED})
    )
    assert parts.models.reference is None and parts.models.policy.network is parts.network
