"""The card of a method says all there is to its options."""

import math

import pytest
import torch

from penchant.families import tiny
from penchant.methods import catalog
from penchant.runs.cards import card, fitting_kinds, slot_card
from penchant.runs.load import check
from penchant.runs.override import FACTORS, known_kinds, override, set_options


@pytest.mark.parametrize("name", catalog.names())
def test_every_option_of_every_method_has_a_meaning(name):
    found = card(catalog.get(name))
    assert found.summary.endswith(".")
    assert found.source
    for slot in found.slots:
        assert slot.summary.endswith("."), slot.kind
        for option in slot.options:
            assert option.meaning.endswith("."), (slot.kind, option.name)


@pytest.mark.parametrize("factor", FACTORS)
def test_every_slot_that_can_be_taken_instead_has_meanings(factor):
    method = catalog.get("diffusion-dpo")
    for found in known_kinds(method, factor).values():
        required = {name: 1.0 for name in ("beta", "coefficient") if name in found.__dataclass_fields__}
        for option in slot_card(method, factor, found(**required)).options:
            assert option.meaning.endswith("."), (found, option.name)


@pytest.mark.parametrize("name", catalog.names())
def test_the_defaults_on_the_card_can_be_written_into_a_run_file(name):
    method = catalog.get(name)
    for shown, slot in zip(card(method).slots, (method.ratio, method.objective, method.weight), strict=True):
        for option in shown.options:
            outer, _, inner = option.name.partition(".")
            options = {outer: {inner: option.default}} if inner else {outer: option.default}
            assert set_options(slot, options, where="run.yaml", place=[shown.factor]) == slot


@pytest.mark.parametrize("name", catalog.names())
def test_the_example_is_a_run_that_passes_every_check(name):
    from omegaconf import OmegaConf

    found = card(catalog.get(name))
    if found.domain == "language":
        assert_example_starts_at_the_rest(found.example)
        return
    run = check(OmegaConf.to_container(OmegaConf.create(found.example)), where="run.yaml")
    assert override(catalog.get(name), run, where="run.yaml") == catalog.get(name)


def assert_example_starts_at_the_rest(example):
    """Run with models that are equal: the margin is 0."""
    model, tokens = tiny.causal_lm(), torch.arange(12).reshape(1, 2, 6)
    names = {"policy": model, "frozen": model, "ids": ("a",), "tokens": tokens}
    names |= {"attended": tokens >= 0, "completion": tokens % 6 > 2}
    exec(example, names)
    assert names["loss"].item() == pytest.approx(math.log(2))
    names["loss"].backward()


@pytest.mark.parametrize("name", catalog.names())
def test_kinds_that_are_said_to_fit_do(name):
    method = catalog.get(name)
    needed = {"beta": 1.0, "coefficient": 1.0}
    raw = {"model": "m", "data": {"path": "d"}, "method": name, "training": {"steps": 1}, "output": "x"}
    for factor in FACTORS:
        for kind in fitting_kinds(method, factor):
            slot = known_kinds(method, factor)[kind]
            options = {"kind": kind} | {k: v for k, v in needed.items() if k in slot.__dataclass_fields__}
            key, value = ("terms", [options]) if factor == "term" else (factor, options)
            override(method, check(raw | {key: value}, where="run.yaml"), where="run.yaml")


def test_kinds_that_do_not_fit_are_not_offered():
    assert fitting_kinds(catalog.get("diffusion-kto"), "objective") == ["human-utility"]
    assert fitting_kinds(catalog.get("diffusion-dpo"), "ratio") == ["denoising", "stepwise"]
    assert fitting_kinds(catalog.get("dpo"), "weight") == ["uniform"]
