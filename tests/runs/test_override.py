"""Options of a run file in the slots of a method, and every sentence about a wrong one."""

from dataclasses import fields

import pytest

from penchant.errors import CompositionError, ConfigError
from penchant.methods import catalog
from penchant.protocols import Objective, Ratio, Term, Weight
from penchant.runs.load import check
from penchant.runs.override import FACTORS, kind_of, known_kinds, override
from penchant.slots.objectives.pairwise import Hinge, Logistic
from penchant.slots.ratios.denoising import DriftFromReference
from penchant.slots.terms.likelihood import WinnerKept, WinnerLikelihood
from penchant.slots.weights.noise_level import NoiseLevel


def run_of(method="diffusion-dpo", **options):
    raw = {"model": "emoji", "data": {"path": "emoji-pairs"}, "method": method, "output": "x"}
    return check(raw | {"training": {"steps": 1}} | options, where="run.yaml")


def changed(method="diffusion-dpo", **options):
    return override(catalog.get(method), run_of(method, **options), where="run.yaml")


def message(method="diffusion-dpo", kind=ConfigError, **options):
    with pytest.raises(kind) as caught:
        changed(method, **options)
    return str(caught.value)


@pytest.mark.parametrize("name", catalog.names())
def test_a_run_file_without_options_leaves_every_method_as_it_is(name):
    assert changed(name) == catalog.get(name)


def test_an_option_that_is_not_named_keeps_the_value_of_the_method():
    method = changed(objective={"label_smoothing": 0.1})
    assert method.objective == Logistic(beta=5000.0, label_smoothing=0.1)


def test_options_reach_into_a_nested_dataclass():
    sampler = changed("d3po", ratio={"sampler": {"num_steps": 10}}).ratio.sampler
    assert (sampler.num_steps, sampler.eta, sampler.guidance) == (10, 1.0, 5.0)


def test_another_kind_starts_from_its_own_defaults():
    method = changed(objective={"kind": "hinge", "beta": 3}, weight={"kind": "noise-level"})
    assert method.objective == Hinge(beta=3.0)
    assert method.weight == NoiseLevel(bias=1.5)


def test_naming_the_kind_of_the_method_keeps_its_options():
    assert changed(objective={"kind": "logistic"}).objective == Logistic(beta=5000.0)


def test_terms_replace_those_of_the_method():
    terms = [{"kind": "winner-kept", "coefficient": 2}, {"kind": "winner-likelihood", "coefficient": 1}]
    assert changed(terms=terms).terms == (WinnerKept(coefficient=2.0), WinnerLikelihood(coefficient=1.0))
    assert changed(terms=[]).terms == ()


def test_auto_beta_has_a_value_to_probe_with():
    assert changed(objective={"beta": "auto"}).objective == Logistic(beta=1.0)
    assert changed(objective={"kind": "hinge", "beta": "auto"}).objective == Hinge(beta=1.0)
    assert changed(objective={"beta": 7}).objective == Logistic(beta=7.0)


def test_an_experimental_slot_needs_to_be_allowed():
    options = {"kind": "drift-from-reference"}
    assert message(ratio=options) == (
        "run.yaml: ratio: drift-from-reference is experimental: form L2: its sign is inconsistent in the "
        "source, and it is stuck at the reference. Write `experimental: true` to take it nevertheless."
    )
    assert changed(ratio=options, experimental=True).ratio == DriftFromReference()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            {"objective": {"beta_dpo": 2000}},
            "run.yaml: objective: unknown option of Logistic 'beta_dpo'. Did you mean 'beta'? "
            "Known: beta, label_smoothing.",
        ),
        ({"objective": {"beta": -1}}, "run.yaml: objective.beta: must be > 0, got -1.0."),
        ({"objective": {"beta": "big"}}, "run.yaml: objective.beta: must be a number, got 'big'."),
        ({"objective": {"beta": True}}, "run.yaml: objective.beta: must be a number, got true."),
        (
            {"objective": {"label_smoothing": 0.5}},
            "run.yaml: objective.label_smoothing: must be in [0, 0.5), got 0.5.",
        ),
        (
            {"objective": {"label_smoothing": "auto"}},
            "run.yaml: objective.label_smoothing: must be a number, got 'auto'.",
        ),
        (
            {"objective": {"kind": "hing"}},
            "run.yaml: objective: unknown kind of objective 'hing'. Did you mean 'hinge'? "
            "Known: hinge, logistic, squared.",
        ),
        (
            {"objective": {"kind": 3}},
            "run.yaml: objective: unknown kind of objective '3'. Known: hinge, logistic, squared.",
        ),
        (
            {"objective": {"kind": "hinge"}},
            "run.yaml: objective: Hinge needs the option 'beta'. Write `beta: ...` beside `kind: hinge`.",
        ),
        (
            {"ratio": {"reduction": "median"}},
            "run.yaml: ratio.reduction: must be one of mean, sum, got 'median'. Did you mean 'mean'?",
        ),
        ({"ratio": {"shared_noise": 3}}, "run.yaml: ratio.shared_noise: must be true or false, got 3."),
        (
            {"weight": {"kind": "noise-window", "low": 0.9, "high": 0.2}},
            "run.yaml: weight: need 0 <= low < high <= 1, got low 0.9 and high 0.2.",
        ),
        (
            {"terms": [{"coefficient": 1}]},
            "run.yaml: terms.0: option 'kind' is missing. Known: winner-kept, winner-likelihood.",
        ),
        (
            {"terms": [{"kind": "winner"}]},
            "run.yaml: terms.0: unknown kind of term 'winner'. Did you mean 'winner-kept'? "
            "Known: winner-kept, winner-likelihood.",
        ),
        (
            {"terms": [{"kind": "winner-kept"}]},
            "run.yaml: terms.0: WinnerKept needs the option 'coefficient'. "
            "Write `coefficient: ...` beside `kind: winner-kept`.",
        ),
        (
            {"terms": [{"kind": "winner-kept", "coefficient": 0}]},
            "run.yaml: terms.0.coefficient: must be > 0, got 0.0.",
        ),
    ],
)
def test_a_wrong_option_is_an_error_that_names_the_place(options, expected):
    assert message(**options) == expected


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            {"ratio": {"sampler": {"eta": 0}}},
            "run.yaml: ratio.sampler.eta: must be > 0 (a deterministic step has no density), got 0.0.",
        ),
        (
            {"ratio": {"sampler": {"steps": 5}}},
            "run.yaml: ratio.sampler: unknown option of DDIM 'steps'. Did you mean 'num_steps'? "
            "Known: eta, guidance, num_steps.",
        ),
        ({"ratio": {"sampler": 5}}, "run.yaml: ratio.sampler: must be a mapping of options, got 5."),
    ],
)
def test_a_wrong_nested_option(options, expected):
    assert message("d3po", **options) == expected


def test_auto_beta_of_an_objective_without_beta():
    assert message("mapo", objective={"beta": "auto"}) == (
        "run.yaml: objective: unknown option of WinnerAndMargin 'beta'. Known: sharpness, squash, weight."
    )


def test_slots_that_do_not_fit_name_the_run_file():
    assert message("dpo", CompositionError, weight={"kind": "noise-level"}) == (
        "run.yaml: method 'dpo': NoiseLevel reads the noise level; Tokens does not give it. Tokens gives: "
        "log-likelihood, log-ratio to a reference. Take a ratio that gives the noise level, or a slot that "
        "reads one of these."
    )


def test_the_module_of_a_method_adds_its_own_kinds():
    assert "human-utility" in known_kinds(catalog.get("diffusion-kto"), "objective")
    assert "human-utility" not in known_kinds(catalog.get("diffusion-dpo"), "objective")


def test_what_is_found_in_a_folder_is_what_its_protocol_says():
    protocols = {"ratio": Ratio, "objective": Objective, "weight": Weight, "term": Term}
    for factor in FACTORS:
        found = known_kinds(catalog.get("diffusion-dpo"), factor)
        assert found
        for kind, slot in found.items():
            assert kind_of(slot) == kind
            required = {
                name: 0.5 for name in ("beta", "coefficient") if name in {f.name for f in fields(slot)}
            }
            assert isinstance(slot(**required), protocols[factor])
