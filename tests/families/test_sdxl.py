"""What is peculiar to Stable Diffusion XL: sizes and crops, the empty prompt."""

import io
import json
import shutil

import pytest
import torch
from PIL import Image
from tests import small

from penchant import families
from penchant.data.rows import Candidate
from penchant.errors import ModelError
from penchant.families import sdxl, tiny
from penchant.protocols import Framing
from penchant.randomness import Randomness
from penchant.slots.compose import step
from penchant.training.encode import Group, Preparation, encode


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.stable_diffusion_xl(tmp_path_factory.mktemp("model") / "sdxl")


@pytest.fixture(scope="module")
def family(folder):
    return sdxl.load(folder)


def photo(width, height):
    file = io.BytesIO()
    Image.effect_noise((width, height), 50).convert("RGB").save(file, "PNG")
    return Candidate(image=file.getvalue())


def test_time_ids_are_original_crop_and_target():
    framing = Framing(original=(30, 40), crop=(1, 2), size=(16, 24))
    found = sdxl.image_conditions([framing])["time_ids"]
    assert found.tolist() == [[30, 40, 1, 2, 16, 24]]


def test_each_candidate_is_told_its_own_size_and_crop(family):
    """40 x 20 becomes 32 x 16, whose window starts at 8; 24 x 60 becomes 16 x 40, from 12 on."""
    wide, high, square = photo(40, 20), photo(24, 60), photo(16, 16)
    groups = [
        Group(id="1", prompt="x", candidates=[wide, high]),
        Group(id="2", prompt="", candidates=[square, wide]),
    ]
    batch = encode(groups, family, Preparation(sizes=((16, 16),))).batch([1, 0], Randomness(run=0))
    assert batch.condition["time_ids"].tolist() == [
        [[16, 16, 0, 0, 16, 16], [20, 40, 0, 8, 16, 16]],
        [[20, 40, 0, 8, 16, 16], [60, 24, 12, 0, 16, 16]],
    ]
    assert batch.condition["prompt"].shape[:2] == batch.condition["pooled"].shape[:2] == (2, 1)


def test_a_method_that_samples_tells_the_models_own_size(folder, tiny_pairs, tmp_path):
    stored = dict.fromkeys(["training.batch_size", "training.micro_batch_size"], small.REMOVED)
    held_out = dict.fromkeys(["training.heldout_every", "training.heldout_draws"], small.REMOVED)
    changes = {
        "method": "d3po",
        "objective": {},
        "online": {"reward": "colourfulness", "prompts_per_step": 2},
        "ratio.sampler.num_steps": 2,
    }
    parts = small.assembled(
        small.run_options(folder, tiny_pairs, tmp_path / "out", {**changes, **stored, **held_out})
    )
    batch = parts.sources.train(0).micro[0]
    for condition in (batch.condition, batch.unconditional):
        assert condition["time_ids"].tolist() == [[[16, 16, 0, 0, 16, 16]]] * 2
    assert (batch.unconditional["prompt"] == 0).all() and (batch.condition["prompt"] != 0).any()
    step(parts.method, parts.models, batch, Randomness(run=0)).loss.backward()


def test_a_mirrored_crop_lies_in_the_mirror(family):
    """41 x 20 becomes 33 x 16, the window starts at round(8.5) = 8, in the mirror at 33 - 16 - 8."""
    groups = [Group(id=str(n), prompt="x", candidates=[photo(41, 20)]) for n in range(20)]
    encoded = encode(groups, family, Preparation(sizes=((16, 16),), flip=True))
    assert encoded.latents.take(encoded.image[0, :, 0].tolist())["time_ids"][:, 3].tolist() == [8, 9]
    batch = encoded.batch(list(range(20)), Randomness(run=0))
    mirrored = Randomness(run=0).uniform(batch.ids, "mirror") >= 0.5
    assert (batch.condition["time_ids"][:, 0, 3] == torch.where(mirrored, 9.0, 8.0)).all()


def test_the_prompt_that_is_dropped_is_zero_where_the_config_says_so(family, folder, tmp_path):
    found = family.encode_prompts(["", "x"])
    assert all((value[0] == 0).all() and (value[1] != 0).any() for value in found.values())
    other = shutil.copytree(folder, tmp_path / "other")
    index = json.loads((other / "model_index.json").read_text())
    assert index["force_zeros_for_empty_prompt"] is True
    (other / "model_index.json").write_text(json.dumps(index | {"force_zeros_for_empty_prompt": False}))
    assert (sdxl.load(other).encode_prompts([""])["pooled"] != 0).any()


def test_a_missing_text_encoder_is_refused_in_a_sentence(folder, tmp_path):
    half = shutil.copytree(folder, tmp_path / "half")
    index = json.loads((half / "model_index.json").read_text())
    empty = {"text_encoder": [None, None], "tokenizer": [None, None]}
    (half / "model_index.json").write_text(json.dumps(index | empty))
    with pytest.raises(ModelError) as caught:
        families.load(str(half))
    assert str(caught.value) == (
        f"model: {half}: a StableDiffusionXLPipeline with an empty text encoder in model_index.json. Give "
        "the base model, which has two, or the refiner as a StableDiffusionXLImg2ImgPipeline."
    )
