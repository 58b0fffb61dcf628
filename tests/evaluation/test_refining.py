"""Which model may begin images for one that refines; what the two draw is in the contract of the families.

That nothing is lost between the two is tested here.
"""

import copy

import diffusers
import pytest
import torch

from penchant import families
from penchant.errors import ConfigError
from penchant.evaluation.refining import Refinement, refinement
from penchant.evaluation.sampling import Sampler, draw, requests_for

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't:DeprecationWarning")
"""From within diffusers' schedulers."""


@pytest.fixture(scope="module")
def base(tiny_models):
    return families.load(str(tiny_models("sdxl")))


@pytest.fixture(scope="module")
def refiner(tiny_models):
    return families.load(str(tiny_models("sdxl_refiner")))


def refused(first, model, num_steps=10):
    with pytest.raises(ConfigError) as caught:
        refinement(first, model, num_steps=num_steps)
    return str(caught.value)


def test_the_last_fifth_of_the_noise_scale_is_refined(base, refiner):
    assert refinement(base, refiner, num_steps=10).hand_over == 0.8


@pytest.mark.parametrize("kind", ["DDIMScheduler", "EulerDiscreteScheduler"])
def test_a_model_that_goes_on_with_its_own_latents_draws_what_it_draws_alone(kind, base):
    """Nothing is lost between the two: noise, seeds, sizes, guidance, size told."""
    parts = base.pipeline.components
    config = parts["scheduler"].config

    def pipeline(called):
        scheduler = getattr(diffusers, kind).from_config(config, timestep_spacing="leading")
        made = called(**(parts | {"scheduler": scheduler}), add_watermarker=False)
        made.set_progress_bar_config(disable=True)
        return made

    first, second = (
        pipeline(c) for c in (diffusers.StableDiffusionXLPipeline, diffusers.StableDiffusionXLImg2ImgPipeline)
    )
    requests = requests_for(["a red fish", "two birds"], seeds_per_prompt=1, seed=0)
    eta = 0.5 if kind == "DDIMScheduler" else 0.0
    sampler = Sampler(num_steps=10, guidance=3.0, eta=eta, batch_size=2, size=24)
    both = draw(Refinement(first=first, second=second, hand_over=0.8), requests, sampler)
    torch.testing.assert_close(both, draw(first, requests, sampler), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["sd15", "sd3", "sdxl_refiner"])
def test_a_model_that_does_not_hand_over_is_refused(name, tiny_models, refiner):
    first = families.load(str(tiny_models(name)))
    assert refused(first, refiner) == (
        f"first_model: a {type(first.pipeline).__name__} cannot begin images for another model. Give the "
        "base model of Stable Diffusion XL."
    )


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("EulerDiscreteScheduler", {"timestep_spacing": "leading"}),
        ("DDIMScheduler", {"timestep_spacing": "trailing"}),
        ("DDIMScheduler", {"beta_end": 0.02}),
    ],
)
def test_a_scheduler_with_other_noise_is_refused(kind, options, base, refiner):
    other = copy.deepcopy(base)
    config = base.pipeline.scheduler.config
    other.pipeline.scheduler = getattr(diffusers, kind).from_config(config, **options)
    assert refused(other, refiner) == (
        f"first_model: its scheduler, {kind}, has other steps or other noise than the trained model's, "
        "DDIMScheduler, so its latents do not fit. Give one with the same scheduler config."
    )


def test_both_need_a_step(base, refiner):
    assert refused(base, refiner, num_steps=1) == (
        "num_steps: of 1 steps the model that refines gets 1; it and the first model need one each. Take "
        "more steps."
    )
    both = [copy.deepcopy(model) for model in (base, refiner)]
    for model in both:
        scheduler = model.pipeline.scheduler
        model.pipeline.scheduler = type(scheduler).from_config(scheduler.config, timestep_spacing="trailing")
    assert refused(*both, num_steps=4).startswith("num_steps: of 4 steps the model that refines gets 0;")
