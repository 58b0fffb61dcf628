"""A run of the refiner: evaluated with a model that begins its images, refused without one."""

import pytest
from rich.console import Console
from tests import small
from typer.testing import CliRunner

from penchant.cli.data import app
from penchant.errors import CompositionError, ConfigError, ModelError
from penchant.runs.evaluate import evaluate, require_possible, sample
from penchant.runs.explain import explain
from penchant.runs.load import check, dump, load

QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def refiner(tiny_models):
    return tiny_models("sdxl_refiner")


@pytest.fixture(scope="module")
def base(tiny_models):
    return str(tiny_models("sdxl"))


@pytest.fixture(scope="module")
def trained(refiner, base, tiny_pairs, tmp_path_factory):
    """A run of two steps with a strong learning rate."""
    evaluation = {
        "first_model": base,
        "metric": "colourfulness",
        "scores": [],
        "num_steps": 10,
        "num_prompts": 2,
        "diversity_prompts": 1,
    }
    changes = {"evaluation": evaluation, "training.learning_rate": 0.5}
    raw = small.run_options(refiner, tiny_pairs, tmp_path_factory.mktemp("run") / "out", changes)
    return small.train(raw)[0]


def test_base_and_tuned_refine_what_the_first_model_has_begun(trained, base):
    results = evaluate(trained, console=QUIET)
    assert results.evaluation.sampler == f"the model's own scheduler, begun by {base}"
    assert results.win_rate.n == 2
    for number in range(3):
        pictures = [(trained.samples / side / f"{number:05}.png").read_bytes() for side in ("base", "tuned")]
        assert pictures[0] != pictures[1]


def test_training_sees_the_last_fifth_of_the_denoising_alone(trained):
    names = {name for row in small.metrics(trained.path) for name in row}
    assert "gradient/factor/t0" in names and not names & {f"gradient/factor/t{n}" for n in (1, 2, 3)}


def missing(refiner, file):
    return (
        f"{file}: evaluation.first_model: '{refiner}' refines images and draws none of its own. Name the "
        "model that begins them, such as stabilityai/stable-diffusion-xl-base-1.0."
    )


def test_without_a_first_model_it_is_not_sampled(trained, refiner, tmp_path):
    text = trained.run_file.read_text()
    raw = {**load(trained.run_file).model_dump(mode="json"), "evaluation": {"num_steps": 10}}
    try:
        trained.run_file.write_text(dump(check(raw, where="run.yaml")))
        with pytest.raises(ConfigError) as caught:
            sample(trained, prompts=["a fish"], num=1, out=tmp_path / "new", console=QUIET)
        assert str(caught.value) == missing(refiner, trained.run_file)
    finally:
        trained.run_file.write_text(text)


def test_what_is_to_be_judged_needs_one_before_it_is_trained(refiner, tiny_pairs, tmp_path):
    raw = small.run_options(
        refiner, tiny_pairs, tmp_path / "out", {"evaluation": {"metric": "colourfulness"}}
    )
    with pytest.raises(ConfigError) as caught:
        explain(check(raw, where="run.yaml"), where="run.yaml")
    assert str(caught.value) == missing(refiner, "run.yaml")
    with pytest.raises(ConfigError) as caught:
        small.assembled(raw)
    assert str(caught.value) == missing(refiner, "run.yaml")


def test_a_first_model_that_nothing_reads_or_nobody_finds_is_refused(options, base, tiny_model, tmp_path):
    with pytest.raises(ConfigError) as caught:
        small.assembled(options(evaluation={"first_model": base}))
    assert str(caught.value) == (
        f"run.yaml: evaluation.first_model: '{tiny_model}' draws images from noise and needs no other model, "
        f"got '{base}'. Remove it."
    )
    lost = check(options(evaluation={"first_model": str(tmp_path / "no")}), where="run.yaml")
    with pytest.raises(ModelError, match=r"^run.yaml: evaluation.first_model: no model folder"):
        require_possible(lost, where="run.yaml")


@pytest.mark.parametrize("sound", [True, False])
def test_a_first_model_that_does_not_fit_is_named_with_its_place(trained, tiny_model, tmp_path, sound):
    text = trained.run_file.read_text()
    first = tiny_model if sound else small.without_side(tiny_model, tmp_path / "first")
    said = "a StableDiffusionPipeline " if sound else small.NO_SIDE
    raw = load(trained.run_file).model_dump(mode="json")
    raw["evaluation"]["first_model"] = str(first)
    try:
        trained.run_file.write_text(dump(check(raw, where="run.yaml")))
        with pytest.raises((ConfigError, ModelError), match=f"run.yaml: evaluation.first_model: {said}"):
            sample(trained, prompts=["a fish"], num=1, out=tmp_path / "new", console=QUIET)
    finally:
        trained.run_file.write_text(text)


def test_it_neither_samples_itself_in_training_nor_makes_candidates(refiner, tiny_pairs, tmp_path):
    held_out = dict.fromkeys(["training.heldout_every", "training.heldout_draws"], small.REMOVED)
    stored = dict.fromkeys(["training.batch_size", "training.micro_batch_size"], small.REMOVED)
    online = {"method": "d3po", "objective": {}, "online": {"reward": "colourfulness"}}
    raw = small.run_options(refiner, tiny_pairs, tmp_path / "out", {**online, **stored, **held_out})
    with pytest.raises(CompositionError) as caught:
        small.assembled(raw)
    assert str(caught.value) == (
        f"run.yaml: method 'd3po' samples the model while it trains, and '{refiner}' refines images and "
        "draws none of its own. Take a method for stored data."
    )
    (tmp_path / "prompts.txt").write_text("a cat\n")
    file = tmp_path / "build.yaml"
    file.write_text(
        f"model: {refiner}\nprompts: {tmp_path}/prompts.txt\nnum_candidates: 2\nrewards: [compressibility]\n"
        f"output: {tmp_path}/pairs\n"
    )
    assert str(CliRunner().invoke(app, ["build", str(file)]).exception) == (
        f"{file}: model: '{refiner}' refines images and draws none of its own. Take the model that begins "
        "them."
    )
