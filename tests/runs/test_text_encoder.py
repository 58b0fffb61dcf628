"""A LoRA that also adapts the text encoder: prompts come as tokens, and everything else is as without."""

import math

import diffusers
import pytest
import torch
from safetensors.torch import load_file
from tests import small

from penchant import families
from penchant.errors import ConfigError, ModelError
from penchant.evaluation.sampling import Request, Sampler, draw
from penchant.runs.export import export
from penchant.runs.forms import Form
from penchant.runs.load import check
from penchant.runs.stored_lora import FILE

REQUESTS = [Request(prompt="thing 1", seed=0), Request(prompt="thing 2", seed=1)]
SAMPLER = Sampler(num_steps=1, guidance=3.0, eta=0.0, batch_size=2, size=16)
LORA = {"rank": 2, "alpha": 4, "text_encoder": True}


def options(model, pairs, output, **changes):
    return small.run_options(model, pairs, output, {"training.lora": LORA, **changes})


@pytest.fixture(scope="module")
def finished(tiny_model, tiny_pairs, tmp_path_factory):
    output = tmp_path_factory.mktemp("run") / "out"
    return small.train(options(tiny_model, tiny_pairs, output, **{"training.learning_rate": 0.05}))[0]


def plain(model):
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(model)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def exported(folder, form, to):
    return export(folder, form=form, to=to, card=lambda folder, exported: "card")


def test_tokens_give_what_their_embeddings_give(tiny_model):
    as_usual, with_text = (families.load(str(tiny_model)) for _ in range(2))
    with_text.train_text_encoder(where="here")
    prompts = ["a red fish", ""]
    noisy, timestep = torch.randn(2, *as_usual.sample_shape), torch.tensor([3, 700])
    with torch.no_grad():
        expected, found = (
            family.denoiser(family.network)(noisy, timestep, family.encode_prompts(prompts))
            for family in (as_usual, with_text)
        )
    assert torch.equal(expected, found)
    assert with_text.encode_prompts(prompts).keys() == {"tokens"}
    embedded = as_usual.encode_prompts(prompts)["prompt"]  # a pipeline goes on giving embeddings
    with torch.no_grad():
        called = with_text.network(noisy, timestep, encoder_hidden_states=embedded, return_dict=False)[0]
    assert torch.equal(called, expected)


@pytest.mark.parametrize("reference", ["start", "copy", "moving", "cached"])
def test_every_reference_begins_at_margin_zero_and_both_parts_learn(
    reference, tiny_model, tiny_pairs, tmp_path
):
    changes = {"training.reference": {"kind": reference}, "training.ema": small.REMOVED}
    folder, _ = small.train(options(tiny_model, tiny_pairs, tmp_path / "out", **changes))
    first = small.metrics(folder.path)[0]
    assert first["margin/mean"] == 0
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-6)
    adapter = load_file(folder.adapter / FILE)
    for part in ("unet.", "text_encoder.text_model.encoder.layers."):
        trained = [value for name, value in adapter.items() if name.startswith(part) and "lora_B" in name]
        assert trained and all(value.any() for value in trained)


def test_a_resumed_run_is_one_that_was_not_stopped(tiny_model, tiny_pairs, tmp_path):
    changes = {"training.steps": 4, "training.heldout_every": 4}
    whole = options(tiny_model, tiny_pairs, tmp_path / "whole", **changes)
    straight, _ = small.train(whole)
    half, _ = small.train({**whole, "output": str(tmp_path / "half")})
    last = max(half.checkpoints.iterdir())
    for file in last.iterdir():
        file.unlink()
    last.rmdir()
    half.manifest.write_text(half.manifest.read_text().replace('"complete": true', '"complete": false'))
    resumed, _ = small.train({**whole, "output": str(tmp_path / "half")}, resume=True)
    assert small.metrics(resumed.path) == small.metrics(straight.path)
    found, expected = (load_file(folder.adapter / FILE) for folder in (resumed, straight))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("form", [Form.DIFFUSERS, Form.KOHYA])
def test_plain_diffusers_loads_both_parts(form, finished, tiny_model, tmp_path):
    pipeline = plain(tiny_model)
    base = draw(pipeline, REQUESTS, SAMPLER)
    pipeline.load_lora_weights(str(finished.adapter))
    tuned = draw(pipeline, REQUESTS, SAMPLER)
    without_text = plain(tiny_model)
    without_text.load_lora_weights(str(finished.adapter))
    without_text.text_encoder.disable_adapters()
    assert not torch.allclose(tuned, base, atol=1e-3)
    assert not torch.allclose(tuned, draw(without_text, REQUESTS, SAMPLER), atol=1e-4)
    again = plain(tiny_model)
    again.load_lora_weights(str(exported(finished, form, tmp_path / "lora")))
    torch.testing.assert_close(draw(again, REQUESTS, SAMPLER), tuned, rtol=0, atol=2e-5)


def test_a_merged_pipeline_has_both_parts_in_its_weights(finished, tiny_model, tmp_path):
    pipeline = plain(tiny_model)
    pipeline.load_lora_weights(str(finished.adapter))
    merged = plain(exported(finished, Form.PIPELINE, tmp_path / "merged"))
    assert not any("lora" in name for name, _ in merged.text_encoder.named_parameters())
    expected = draw(pipeline, REQUESTS, SAMPLER)
    torch.testing.assert_close(draw(merged, REQUESTS, SAMPLER), expected, rtol=0, atol=2e-5)


def test_a_checkpoint_is_exported_as_the_end_is(finished, tiny_model, tiny_pairs, tmp_path):
    expected = load_file(exported(finished, Form.DIFFUSERS, tmp_path / "end") / FILE)
    manifest = finished.manifest.read_text()
    finished.manifest.write_text(manifest.replace('"complete": true', '"complete": false'))
    try:
        folder = exported(finished, Form.DIFFUSERS, tmp_path / "checkpoint")
    finally:
        finished.manifest.write_text(manifest)
    found = load_file(folder / FILE)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_the_peft_form_is_refused(finished, tmp_path):
    with pytest.raises(ModelError) as caught:
        exported(finished, Form.PEFT, tmp_path / "lora")
    assert str(caught.value) == (
        "--form peft: holds the adapter of one network, and this LoRA adapts the unet and the text encoder. "
        "Take --form diffusers."
    )


def test_only_images_go_to_the_cache(tiny_model, tiny_pairs, tmp_path):
    cache = {"data.cache": str(tmp_path / "cache")}
    small.train(options(tiny_model, tiny_pairs, tmp_path / "out", **cache))
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["images"]


def test_a_method_that_samples_the_policy_trains_it_too(tiny_model, tiny_pairs, tmp_path):
    changes = {
        "method": "d3po",
        "objective": {},
        "online": {"reward": "colourfulness", "prompts_per_step": 2},
        "evaluation.num_steps": 2,
        "data.heldout_split": None,
        "training": {"steps": 2, "learning_rate": 0.05, "lora": LORA},
    }
    folder, _ = small.train(small.run_options(tiny_model, tiny_pairs, tmp_path / "out", changes))
    adapter = load_file(folder.adapter / FILE)
    text = [value for name, value in adapter.items() if name.startswith("text_") and "lora_B" in name]
    assert text and all(value.any() for value in text)


def test_a_model_of_several_text_encoders_is_refused(tiny_models, tiny_pairs, tmp_path):
    with pytest.raises(ConfigError) as caught:
        small.assembled(options(tiny_models("sdxl"), tiny_pairs, tmp_path / "out"))
    assert str(caught.value) == (
        "run.yaml: training.lora.text_encoder: not for a model of the family sdxl, only for SD 1.x and 2.x, "
        "which have one text encoder. Remove it."
    )


def test_it_is_not_asked_of_an_adapter_that_is_continued(tiny_model, tiny_pairs, tmp_path):
    lora = {"training.lora": {"start_from": "somewhere", "text_encoder": True}}
    with pytest.raises(ConfigError, match="text_encoder: is that of the adapter in start_from"):
        check(small.run_options(tiny_model, tiny_pairs, tmp_path / "out", lora), where="run.yaml")
