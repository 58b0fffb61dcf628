"""`beta: auto` finds a number by a probe that leaves no trace."""

import json
import math

import pytest
import torch
from tests import small

from penchant.errors import ConfigError
from penchant.training import auto_beta as module
from penchant.training.auto_beta import auto_beta

AUTO = {"objective": {"beta": "auto"}, "auto_beta": {"probe_steps": 4, "gradient_factor": 0.3}}


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


@pytest.mark.parametrize(("factor", "margin", "expected"), [(0.3, 0.001, 850), (0.1, 0.5, 4.4)])
def test_by_hand(options, monkeypatch, factor, margin, expected):
    """log(0.7 / 0.3) / 0.001 = 847.3; log(9) / 0.5 = 4.394."""
    parts = small.assembled(options())
    monkeypatch.setattr(module, "aggregate", lambda *args: {"margin/mean": margin})
    assert probe(parts, factor) == expected


def probe(parts, factor=0.3):
    optimizer = torch.optim.AdamW([p for p in parts.bare.parameters() if p.requires_grad], lr=1e-3)
    return auto_beta(
        parts.method,
        parts.models,
        parts.network,
        parts.sources.train,
        optimizer,
        accelerator=parts.accelerator,
        gradient_factor=factor,
        probe_steps=1,
        max_grad_norm=1.0,
        where="run.yaml",
    )


def test_without_a_margin_there_is_no_beta(options, monkeypatch):
    parts = small.assembled(options())
    monkeypatch.setattr(module, "aggregate", lambda *args: {"margin/mean": -0.5})
    with pytest.raises(ConfigError) as caught:
        probe(parts)
    assert str(caught.value) == (
        "run.yaml: objective.beta: `auto` found no margin to aim at: after 1 probe steps the mean margin is "
        "-0.5. Raise the learning rate or auto_beta.probe_steps, or give beta a number."
    )


def test_it_is_for_the_logistic_objective_only(options):
    with pytest.raises(ConfigError) as caught:
        small.assembled(options(method="diffusion-kto", objective={"beta": "auto"}))
    assert str(caught.value) == (
        "run.yaml: objective.beta: `auto` is defined for the logistic objective, got HumanUtility. Give beta "
        "a number."
    )
