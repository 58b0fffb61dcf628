"""Neither pieces nor order change a run beyond rounding."""

import pytest
import torch
from tests import small

from penchant.training.loop import Record, Watchers, accumulate, aggregate, fit

KTO = {"method": "diffusion-kto", "objective": {"beta": 300}}
DPO = {"objective": {"beta": 500}, "terms": [{"kind": "winner-kept", "coefficient": 10}]}
METHODS = {"diffusion-dpo": DPO, "diffusion-kto": KTO}


def gradients(parts, step=0):
    parts.optimizer.zero_grad()
    outputs = accumulate(
        parts.method, parts.models, parts.network, parts.sources.train(step), parts.accelerator
    )
    grads = [p.grad.clone() for p in parts.bare.parameters() if p.requires_grad]
    return aggregate(outputs, parts.accelerator), grads


@pytest.mark.parametrize("method", METHODS)
def test_eight_pieces_of_one_are_one_of_eight(options, method):
    parts = small.assembled(
        options(**METHODS[method], **{"training.batch_size": 8, "training.micro_batch_size": 8})
    )
    gradients(parts)
    parts.optimizer.step()  # away from the reference, where the reference point of KTO is not 0
    metrics, whole = gradients(parts, 1)
    parts.sources.train.micro_batch_size = 1
    split_metrics, pieces = gradients(parts, 1)
    assert split_metrics == pytest.approx(metrics, rel=1e-4, abs=1e-6)
    torch.testing.assert_close(pieces, whole, rtol=1e-3, atol=1e-6)
    assert max(float(g.abs().max()) for g in whole) > 1e-4


@pytest.mark.parametrize("method", METHODS)
def test_the_order_of_rows_does_not_matter(options, method):
    parts = small.assembled(options(**METHODS[method]))
    batch = parts.sources.train(0)
    other = type(batch)(
        micro=tuple(reversed(batch.micro)), draws=batch.draws, epoch=batch.epoch, size=batch.size
    )
    found = []
    for one in (batch, other):
        parts.optimizer.zero_grad()
        outputs = accumulate(parts.method, parts.models, parts.network, one, parts.accelerator)
        grads = [p.grad.clone() for p in parts.bare.parameters() if p.requires_grad]
        found.append((aggregate(outputs, parts.accelerator), grads))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5, abs=1e-7)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-4, atol=1e-7)


class Watcher:
    """Notes the order of the calls."""

    def __init__(self, network):
        self.calls, self.network = [], network

    def before(self, record: Record) -> None:
        weights = [p.detach().clone() for p in self.network.parameters() if p.requires_grad]
        self.calls.append(("before", record.step, weights))

    def after(self, record: Record) -> None:
        assert record.metrics["time/step_s"] > 0
        weights = [p.detach().clone() for p in self.network.parameters() if p.requires_grad]
        self.calls.append(("after", record.step, weights))

    def end(self) -> None:
        self.calls.append(("end", None, None))


def test_watchers_are_called_in_order_and_a_stop_is_asked_after_each_step(options):
    parts = small.assembled(options())
    watcher = Watcher(parts.bare)
    asked = iter([False, False, True])
    progress = fit(
        parts.method,
        parts.models,
        parts.network,
        parts.sources.train,
        parts.optimizer,
        parts.schedule,
        accelerator=parts.accelerator,
        steps=5,
        watchers=Watchers(guards=[watcher.before], after_step=[watcher.after], at_end=[watcher.end]),
        stop=lambda: next(asked),
    )
    assert (progress.step, progress.samples) == (2, 8)
    assert [call[:2] for call in watcher.calls] == [
        ("before", 1), ("after", 1), ("before", 2), ("after", 2), ("end", None)
    ]  # fmt: skip
    first, moved, again = (call[2] for call in watcher.calls[:3])
    assert not all(torch.equal(a, b) for a, b in zip(first, moved, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(moved, again, strict=True))


def test_the_gradient_is_scaled_down_to_the_norm(options):
    parts = small.assembled(options(**{"training.optimizer": "adamw"}))
    seen = []

    def note(record):
        grads = [p.grad for p in parts.bare.parameters() if p.requires_grad]
        seen.append((record.metrics["gradient/norm"], torch.stack([g.norm() for g in grads]).norm().item()))

    fit(
        parts.method, parts.models, parts.network, parts.sources.train, parts.optimizer, parts.schedule,
        accelerator=parts.accelerator, steps=1, max_grad_norm=1e-3, watchers=Watchers(guards=[note]),
    )  # fmt: skip
    (logged, clipped), *_ = seen
    assert logged > 2e-3, "the norm before clipping"
    assert clipped == pytest.approx(1e-3, rel=1e-3)
