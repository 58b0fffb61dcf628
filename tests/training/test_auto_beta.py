"""`beta: auto` finds a number by a probe that leaves no trace."""

import json
import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests import small

from penchant.errors import ConfigError
from penchant.slots.objectives.pairwise import Logistic
from penchant.training import auto_beta as module
from penchant.training.auto_beta import auto_beta, beta_with_mean_factor, pair_margins
from penchant.training.loop import accumulate

AUTO = {"objective": {"beta": "auto"}, "auto_beta": {"probe_steps": 8, "gradient_factor": 0.45}}


def test_the_found_beta_is_used_kept_and_undone(options, tmp_path):
    raw = options(**AUTO)
    folder, shown = small.train(raw)
    beta = json.loads(folder.manifest.read_text())["method"]["objective"]["beta"]
    assert 0 < beta < math.inf and beta == float(f"{beta:.2g}")
    assert "loss 0.6931, margin 0," in shown, "the probe is undone before the self-check"
    assert "beta: auto" in folder.run_file.read_text()
    given, _ = small.train(options(objective={"beta": beta}), output=tmp_path / "given")
    assert small.metrics(given.path) == small.metrics(folder.path)
    more = options(**AUTO, **{"training.steps": 3})
    small.train(more, resume=True)
    assert json.loads(folder.manifest.read_text())["method"]["objective"]["beta"] == beta


SPREAD = (0.03, -0.01)
"""With x = exp(0.01 beta), the mean factor is [1 / (1 + x^3) + x / (1 + x)] / 2: 0.5 at x = 1, 7/18 at x = 2,
0.386 where it is lowest, at x = 2.30."""


@pytest.mark.parametrize(
    ("factor", "margins", "smoothing", "expected"),
    [
        (0.3, (0.001,), 0.0, 850),  # log(0.7 / 0.3) / 0.001 = 847.3
        (0.1, (0.5, 0.5), 0.0, 4.4),  # log(9) / 0.5 = 4.394
        (7 / 18, SPREAD, 0.0, 69),  # x = 2: 100 log 2 = 69.3
        (0.3, (0.01,), 0.1, 66),  # (s - 0.1) / 0.8 = 0.3: s = 0.34, log(0.66 / 0.34) / 0.01 = 66.3
        (0.3, (3.0,) * 3 + (-20.0,), 0.0, 0.88),  # (3 s + 1) / 4 = 0.3: s = 1/15, log(14) / 3 = 0.88
    ],
)
def test_by_hand(options, monkeypatch, factor, margins, smoothing, expected):
    parts = small.assembled(options(objective={"label_smoothing": smoothing}))
    monkeypatch.setattr(module, "pair_margins", lambda *args: torch.tensor(margins, dtype=torch.float64))
    assert probe(parts, factor) == expected


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("aim", [0.05, 0.3, 0.49])
def test_the_mean_factor_at_the_found_beta_is_what_was_asked_for(aim, smoothing):
    draws = torch.Generator().manual_seed(0)
    margin = 0.02 + 0.002 * torch.randn(500, generator=draws, dtype=torch.float64)
    beta, _ = beta_with_mean_factor(Logistic(beta=1.0, label_smoothing=smoothing), margin, aim)
    assert beta is not None
    pull = torch.sigmoid(-beta * margin) - smoothing  # |d loss / d margin| over beta
    assert (pull.abs().mean() / (1 - 2 * smoothing)).item() == pytest.approx(aim, abs=1e-6)


def test_the_margins_are_those_that_training_logs_but_for_the_ties(options):
    parts = small.assembled(options())
    batch = parts.sources.train(0)
    outputs = accumulate(parts.method, parts.models, parts.network, batch, parts.accelerator)
    for output in outputs:
        output.measured["margin/mean"] = torch.tensor([0.5, 0.0, math.nan])
        output.measured["gradient/factor"] = torch.tensor([0.3, math.nan, math.nan])
    two_processes: Any = SimpleNamespace(gather=lambda own: torch.cat([own, 2 * own]))
    kept = pair_margins(outputs[:2], two_processes)
    assert kept.dtype == torch.float64
    assert kept.nan_to_num(-1.0).tolist() == [0.5, -1.0, 0.5, -1.0, 1.0, -1.0, 1.0, -1.0]


def probe(parts, factor=0.3):
    optimizer = torch.optim.AdamW([p for p in parts.bare.parameters() if p.requires_grad], lr=1e-3)
    return auto_beta(
        parts.method,
        parts.models,
        parts.network,
        parts.sources.train,
        optimizer,
        accelerator=parts.accelerator,
        aim=factor,
        probe_steps=1,
        max_grad_norm=1.0,
        where="run.yaml",
    )


@pytest.mark.parametrize(("margins", "shown"), [((0.0, 0.0), "0"), ((), "nan"), ((0.5, math.nan), "nan")])
def test_without_a_margin_there_is_no_beta(options, monkeypatch, margins, shown):
    parts = small.assembled(options())
    monkeypatch.setattr(module, "pair_margins", lambda *args: torch.tensor(margins, dtype=torch.float64))
    with pytest.raises(ConfigError) as caught:
        probe(parts)
    assert str(caught.value) == (
        "run.yaml: objective.beta: `auto` found no margin to aim at: after 1 probe steps the mean margin is "
        f"{shown}. Raise the learning rate or auto_beta.probe_steps, or give beta a number."
    )


def test_a_mean_factor_that_no_beta_reaches_is_refused(options, monkeypatch):
    parts = small.assembled(options())
    monkeypatch.setattr(module, "pair_margins", lambda *args: torch.tensor(SPREAD, dtype=torch.float64))
    with pytest.raises(ConfigError) as caught:
        probe(parts)
    assert str(caught.value) == (
        "run.yaml: objective.beta: `auto` cannot bring the mean gradient factor to 0.3: after 1 probe steps "
        "50% of the pairs have a negative margin, and 0.386 is the lowest that any beta reaches. Raise "
        "auto_beta.gradient_factor above that, or the learning rate or auto_beta.probe_steps, or give beta a "
        "number."
    )


def test_it_is_for_the_logistic_objective_only(options):
    with pytest.raises(ConfigError) as caught:
        small.assembled(options(method="diffusion-kto", objective={"beta": "auto"}))
    assert str(caught.value) == (
        "run.yaml: objective.beta: `auto` is defined for the logistic objective, got HumanUtility. Give beta "
        "a number."
    )
