"""The reference is what training started from, in every mode, and nothing of it ever trains."""

import pytest
import torch
from tests import small

from penchant.training.loop import accumulate
from penchant.training.reference import starting_point


def one_step(parts, step=0):
    """Outputs of a step and the gradient of every parameter that has one."""
    parts.optimizer.zero_grad()
    outputs = accumulate(parts.method, parts.models, parts.network, parts.source(step), parts.accelerator)
    gradients = {n: p.grad.clone() for n, p in parts.bare.named_parameters() if p.grad is not None}
    return outputs, gradients


def update(parts, step=0):
    one_step(parts, step)
    parts.optimizer.step()
    parts.optimizer.zero_grad()


def probe(parts):
    """Predictions of policy and reference on one batch."""
    batch = parts.source(0).micro[0]
    rows = batch.latents[:, 0]
    condition = {name: value[:, 0] for name, value in batch.condition.items()}
    inputs = (rows, torch.full((len(rows),), 300), condition)
    with torch.no_grad():
        return parts.models.policy(*inputs), parts.models.reference(*inputs)


def margins(outputs):
    return torch.cat([output.measured["margin/mean"] for output in outputs])


LORA = {"objective": {"beta": 5000}}


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_adapters_off_gives_margin_exactly_zero_and_only_the_adapter_learns(options, precision):
    parts = small.assembled(
        options(**LORA, **{"training.precision": precision, "training.micro_batch_size": 4})
    )
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
    assert policy.dtype is (torch.float32 if precision == "float32" else torch.bfloat16)
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


def test_gradient_checkpointing_gives_the_same_gradients(options):
    plain, saving = (
        small.assembled(options(**LORA, **{"training.gradient_checkpointing": on})) for on in (False, True)
    )
    assert saving.bare.is_gradient_checkpointing
    for parts in (plain, saving):
        update(parts)
    (_, expected), (_, got) = one_step(plain, 1), one_step(saving, 1)
    assert got.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(got[name], gradient)
