"""The guards: each names its cause, warns once, and stops before harm."""

import json
import logging
import math

import pytest

from penchant.errors import TrainingStopped
from penchant.training.health import Health
from penchant.training.loop import Record


def health(**options):
    defaults = {
        "winner_error_limit": 0.02,
        "on_winner_error": "warn",
        "spike_factor": 10.0,
        "saturation_share": 0.9,
        "window": 4,
    }
    return Health(**(defaults | options))


def run(guards, steps, start=1, **metrics):
    """Show the guards some equal steps."""
    names = {"norm": "gradient/norm", "saturated": "gradient/saturated", "winner": "error/winner_change"}
    numbers = {"loss": 0.7, "gradient/norm": 1.0} | {names.get(k, k): v for k, v in metrics.items()}
    for step in range(start, start + steps):
        record = Record(step=step, metrics=numbers)
        guards.guard(record)
        guards.follow(record)


@pytest.fixture
def warnings(caplog):
    caplog.set_level(logging.WARNING, "penchant")
    return lambda: [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize(("loss", "norm"), [(math.nan, 1.0), (0.7, math.inf), (math.inf, math.nan)])
def test_a_loss_or_gradient_that_is_no_number_stops_at_once(loss, norm):
    with pytest.raises(TrainingStopped) as caught:
        run(health(), 1, start=7, loss=loss, norm=norm)
    assert str(caught.value) == (
        f"step 7: the loss is {loss} and the gradient norm {norm}: not a number. The weights are those of "
        "the step before, all checkpoints are older. Usual causes: a learning rate that is too high, or "
        "images or scores that are not finite."
    )


def test_a_dead_gradient_stops_after_three_steps():
    guards = health()
    run(guards, 2, norm=0.0)
    run(guards, 1, start=3)
    run(guards, 2, start=4, norm=0.0)
    with pytest.raises(TrainingStopped, match="step 6: the gradient has been exactly 0 for 3 steps: nothing"):
        run(guards, 1, start=6, norm=0.0)


def test_a_spike_is_named_once(warnings):
    guards = health()
    run(guards, 4)
    run(guards, 1, start=5, norm=9.0)
    assert not warnings()
    run(guards, 1, start=6, norm=100.0)  # usual: 1 + 8 / 4 = 3
    assert warnings() == ["step 6: gradient norm 100 is 33 times the usual"]
    run(guards, 1, start=7, norm=1000.0)
    assert len(warnings()) == 1


def test_a_large_first_gradient_is_no_spike(warnings):
    guards = health()
    run(guards, 1, norm=0.001)
    run(guards, 3, start=2, norm=1.0)
    assert not warnings()


def test_saturation_is_named(warnings):
    guards = health()
    run(guards, 3, saturated=1.0)
    assert not warnings()
    run(guards, 1, start=4, saturated=1.0)
    assert warnings() == [
        "step 4: 100% of the groups no longer pull (gradient factor below 0.005): learnt, or beta is too high"
    ]


def test_winners_that_are_unlearnt_warn_and_stop_if_asked(warnings):
    run(health(), 3, winner=0.5)
    assert not warnings()
    run(health(), 9, winner=0.5)
    cause = (
        "step 4: the winners' own denoising error is 0.5000 above the reference's (limit 0.02): preferred "
        "images are being unlearnt"
    )
    assert warnings() == [cause]
    with pytest.raises(TrainingStopped) as caught:
        run(health(on_winner_error="stop"), 9, winner=0.5)
    assert str(caught.value) == (
        f"{cause}. Raise beta, lower the learning rate, or add a winner-kept term; checkpoints are kept."
    )
    run(health(winner_error_limit=None, on_winner_error="stop"), 9, winner=0.5)
    run(health(on_winner_error="stop"), 9, winner=0.02)
    assert len(warnings()) == 1


def test_a_warning_comes_again_only_after_it_was_away(warnings):
    guards = health()
    run(guards, 30, winner=0.5)
    assert len(warnings()) == 1
    run(guards, 40, start=31, winner=0.0)
    run(guards, 5, start=71, winner=0.5)
    assert len(warnings()) == 2


def test_a_resumed_run_judges_as_the_first_would():
    first, second = health(), health()
    run(first, 6, norm=3.0, winner=0.01, saturated=0.2)
    second.load(json.loads(json.dumps(first.state())))
    assert second.state() == first.state()
    run(first, 2, start=7, norm=0.0)
    second.load(first.state())
    with pytest.raises(TrainingStopped):
        run(second, 1, start=9, norm=0.0)


def test_a_method_without_a_reference_has_no_such_number():
    run(health(on_winner_error="stop"), 9)
