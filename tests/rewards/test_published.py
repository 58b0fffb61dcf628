"""The published scorers on tiny random weights, against numbers computed another way in float64.

CLIP models: transformers' own model and image processor. open_clip and BLIP state dicts: their forward pass
written out below under their own names of the weights. Real weights are not at hand here.
"""

import json
import math
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from typer.testing import CliRunner

from penchant.cli.rewards import app
from penchant.errors import ModelError
from penchant.protocols import Reward
from penchant.rewards import _convert, catalog
from penchant.rewards._pixels import padded
from penchant.rewards._weights import version_of
from penchant.rewards.aesthetic import Aesthetic
from penchant.rewards.clip_score import ClipScore
from penchant.rewards.hpsv2 import HPSv2
from penchant.rewards.image_reward import ImageReward
from penchant.rewards.pickscore import PickScore

PROMPTS = ["a cat", "dog", "two red fish in a bowl"]
HEADS = 2
LAYERS = 2


@pytest.fixture(scope="module")
def images():
    """Three images of 32 x 48 pixels, as a file would hold them."""
    return torch.randint(0, 256, (3, 3, 32, 48), generator=torch.Generator().manual_seed(0)) / 255


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A random CLIPModel with tokenizer for 16 x 16 pixels, as transformers saves it."""
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": LAYERS}
    letters = [*"abcdefghijklmnopqrstuvwxyz"]
    words = {w: i for i, w in enumerate([*letters, *(f"{c}</w>" for c in letters)])}
    words |= {"<|startoftext|>": len(words), "<|endoftext|>": len(words) + 1}
    text = sizes | {
        "num_attention_heads": HEADS, "vocab_size": len(words), "max_position_embeddings": 20,
        "bos_token_id": len(words) - 2, "eos_token_id": len(words) - 1,
    }  # fmt: skip
    vision = sizes | {"num_attention_heads": HEADS, "image_size": 16, "patch_size": 8}
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8))
    folder = tmp_path_factory.mktemp("clip") / "clip"
    model.save_pretrained(folder)
    CLIPTokenizer(vocab=words, merges=[]).save_pretrained(folder)
    return folder


def embeddings(folder, images, texts):
    """Unit vectors by transformers alone, in float64; no padding, each text by itself."""
    from transformers import CLIPModel, CLIPTokenizer
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    model = CLIPModel.from_pretrained(folder).double().eval()
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    processor = CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    pictures = [Image.fromarray((i.permute(1, 2, 0).numpy() * 255).round().astype("uint8")) for i in images]
    pixels = processor(pictures, return_tensors="pt")["pixel_values"].double()
    tokens = [
        tokenizer(text, return_tensors="pt", truncation=True, max_length=20).input_ids for text in texts
    ]
    with torch.no_grad():
        seen = model.get_image_features(pixels).pooler_output
        read = torch.cat([model.get_text_features(ids).pooler_output for ids in tokens])
    return F.normalize(seen, dim=-1), F.normalize(read, dim=-1), model.logit_scale.exp().item()


def close(scores, expected):
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores.double(), expected, rtol=1e-4, atol=1e-5)


def test_clip_score_is_cut_at_zero_and_reads_the_prefix(clip, images):
    seen, read, _ = embeddings(clip, images, ["A photo depicts " + prompt for prompt in PROMPTS])
    expected = 2.5 * (seen * read).sum(-1).clamp(min=0)
    close(ClipScore(model=str(clip))(images, PROMPTS), expected)
    assert (expected > 0).any()


def test_pickscore_is_the_cosine_at_the_scale_of_the_model(clip, images):
    seen, read, scale = embeddings(clip, images, PROMPTS)
    pickscore = PickScore(model=str(clip), tokenizer=str(clip))
    close(pickscore(images, PROMPTS), scale * (seen * read).sum(-1))
    torch.testing.assert_close(  # a score does not depend on the images and prompts beside it
        pickscore(images[1:2], PROMPTS[1:2]), pickscore(images, PROMPTS)[1:2], rtol=1e-5, atol=1e-5
    )
    assert pickscore(torch.zeros(0, 3, 8, 8), []).shape == (0,)


def linear_head(prefix, width):
    """A published head: five linear layers between dropouts."""
    generator, state, sizes = torch.Generator().manual_seed(4), {}, [width, 12, 10, 8, 6, 1]
    for number, inputs, outputs in zip((0, 2, 4, 6, 7), sizes, sizes[1:], strict=False):
        state[f"{prefix}{number}.weight"] = torch.randn(outputs, inputs, generator=generator) / inputs**0.5
        state[f"{prefix}{number}.bias"] = torch.randn(outputs, generator=generator)
    return state


def through_head(features, state, prefix):
    for number in (0, 2, 4, 6, 7):
        weight, bias = (state[f"{prefix}{number}.{part}"].double() for part in ("weight", "bias"))
        features = F.linear(features, weight, bias)
    return features[:, 0]


def test_aesthetic_is_a_linear_head_on_the_unit_embedding(clip, images, tmp_path):
    state = linear_head("layers.", 8)
    torch.save(state, tmp_path / "head.pth")
    result = CliRunner().invoke(
        app, ["convert", "aesthetic", str(tmp_path / "head.pth"), str(tmp_path / "head")]
    )
    assert result.exit_code == 0, result.exception
    seen, _, _ = embeddings(clip, images, PROMPTS)
    aesthetic = Aesthetic(model=str(tmp_path / "head"), clip=str(clip))
    close(aesthetic(images, PROMPTS), through_head(seen, state, "layers."))
    assert len(aesthetic.version) == 33


# ---------------------------------------------------------------- open_clip


def attention(x, keys, weights, name, *, heads, mask=None):
    """Attention with one matrix for query, key and value."""
    q, k, v = F.linear(x, weights[f"{name}in_proj_weight"], weights[f"{name}in_proj_bias"]).chunk(3, -1)
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
    logits = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    mixed = (logits if mask is None else logits + mask).softmax(-1) @ v
    return F.linear(
        mixed.transpose(1, 2).flatten(2), weights[f"{name}out_proj.weight"], weights[f"{name}out_proj.bias"]
    )


def norm(x, weights, name, eps=1e-5):
    return F.layer_norm(x, x.shape[-1:], weights[f"{name}weight"], weights[f"{name}bias"], eps)


def open_clip_tower(x, weights, prefix, mask=None):
    for number in range(LAYERS):
        block = f"{prefix}transformer.resblocks.{number}."
        inner = norm(x, weights, f"{block}ln_1.")
        x = x + attention(inner, inner, weights, f"{block}attn.", heads=16, mask=mask)
        inner = norm(x, weights, f"{block}ln_2.")
        inner = F.linear(inner, weights[f"{block}mlp.c_fc.weight"], weights[f"{block}mlp.c_fc.bias"])
        x = x + F.linear(
            F.gelu(inner), weights[f"{block}mlp.c_proj.weight"], weights[f"{block}mlp.c_proj.bias"]
        )
    return x


@pytest.fixture(scope="module")
def open_clip():
    """A random state dict under open_clip's names; 16 heads, as ViT-H/14 has."""
    generator = torch.Generator().manual_seed(2)

    def random(*shape):
        return torch.randn(*shape, generator=generator) * 0.3

    state = {
        "logit_scale": torch.tensor(4.6), "positional_embedding": random(20, 32),
        "text_projection": random(32, 8), "token_embedding.weight": random(54, 32),
        "ln_final.weight": 1 + random(32), "ln_final.bias": random(32),
        "visual.class_embedding": random(48), "visual.positional_embedding": random(5, 48),
        "visual.proj": random(48, 8), "visual.conv1.weight": random(48, 3, 8, 8) / 4,
    }  # fmt: skip
    for name in ("ln_pre", "ln_post"):
        state |= {f"visual.{name}.weight": 1 + random(48), f"visual.{name}.bias": random(48)}
    for prefix, width in (("", 32), ("visual.", 48)):
        for number in range(LAYERS):
            block = f"{prefix}transformer.resblocks.{number}."
            for name in ("ln_1", "ln_2"):
                state |= {f"{block}{name}.weight": 1 + random(width), f"{block}{name}.bias": random(width)}
            for name, outputs, inputs in (
                ("attn.in_proj_", 3 * width, width), ("attn.out_proj.", width, width),
                ("mlp.c_fc.", 2 * width, width), ("mlp.c_proj.", width, 2 * width),
            ):  # fmt: skip
                state |= {
                    f"{block}{name}weight": random(outputs, inputs),
                    f"{block}{name}bias": random(outputs),
                }
    return state


def hpsv2_by_hand(state, images, token_rows):
    weights = {name: value.double() for name, value in state.items()}
    pixels = []
    for image in images:
        picture = Image.fromarray((image.permute(1, 2, 0).numpy() * 255).round().astype("uint8"))
        square = ImageOps.pad(picture, (16, 16), Image.Resampling.BICUBIC, color="black")
        pixels.append(torch.from_numpy(np.array(square)).permute(2, 0, 1).double() / 255)
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073], dtype=torch.float64)[:, None, None]
    deviation = torch.tensor([0.26862954, 0.26130258, 0.27577711], dtype=torch.float64)[:, None, None]
    x = F.conv2d((torch.stack(pixels) - mean) / deviation, weights["visual.conv1.weight"], stride=8)
    x = x.flatten(2).transpose(1, 2)
    first = weights["visual.class_embedding"].expand(len(x), 1, -1)
    x = norm(torch.cat([first, x], 1) + weights["visual.positional_embedding"], weights, "visual.ln_pre.")
    x = norm(open_clip_tower(x, weights, "visual.")[:, 0], weights, "visual.ln_post.")
    seen = F.normalize(x @ weights["visual.proj"], dim=-1)
    read = []
    for ids in token_rows:  # open_clip pads with zeros up to its length, and masks the future
        ids = ids + [0] * (20 - len(ids))
        mask = torch.full((20, 20), -math.inf, dtype=torch.float64).triu(1)
        t = (weights["token_embedding.weight"][ids] + weights["positional_embedding"])[None]
        t = norm(open_clip_tower(t, weights, "", mask), weights, "ln_final.")
        read.append(t[0, int(np.argmax(ids))] @ weights["text_projection"])
    return 100 * (seen * F.normalize(torch.stack(read), dim=-1)).sum(-1)


def test_hpsv2_runs_open_clip_weights_on_padded_images(open_clip, clip, images, tmp_path):
    from transformers import CLIPTokenizer

    torch.save({"state_dict": open_clip, "epoch": 3}, tmp_path / "HPS.pt")
    _convert.convert("hpsv2", tmp_path / "HPS.pt", tmp_path / "hps")
    tokenizer = CLIPTokenizer.from_pretrained(clip)
    rows = [tokenizer(prompt).input_ids for prompt in PROMPTS]
    reward = HPSv2(model=str(tmp_path / "hps"), edition="2.1", tokenizer=str(clip))
    close(reward(images, PROMPTS), hpsv2_by_hand(open_clip, images, rows))
    assert reward.name == "HPSv2.1"


@pytest.mark.parametrize("wrong", ["visual.attnpool.weight", "transformer.resblocks.0.attn.gate"])
def test_weights_of_another_architecture_are_refused(open_clip, tmp_path, wrong):
    torch.save(open_clip | {wrong: torch.zeros(1)}, tmp_path / "x.pt")
    with pytest.raises(ModelError, match=f"x.pt: not the weights of hpsv2 .*{wrong}.*published file"):
        _convert.convert("hpsv2", tmp_path / "x.pt", tmp_path / "out")


def test_a_thin_picture_is_padded_and_does_not_vanish():
    square = np.asarray(padded(Image.new("RGB", (1000, 1), "white"), 16))
    assert square.shape == (16, 16, 3) and (square == 255).all(axis=(1, 2)).sum() == 1


# ---------------------------------------------------------------- ImageReward


@pytest.fixture(scope="module")
def image_reward():
    """A random state dict under ImageReward's names: vision width 32, text width 24."""
    generator = torch.Generator().manual_seed(3)

    def random(*shape):
        return torch.randn(*shape, generator=generator) * 0.3

    def linear(name, outputs, inputs):
        return {f"{name}.weight": random(outputs, inputs), f"{name}.bias": random(outputs)}

    def norms(name, width):
        return {f"{name}.weight": 1 + random(width), f"{name}.bias": random(width)}

    vision, text = "blip.visual_encoder.", "blip.text_encoder."
    state = {
        f"{vision}cls_token": random(1, 1, 32), f"{vision}pos_embed": random(1, 5, 32),
        f"{vision}patch_embed.proj.weight": random(32, 3, 8, 8) / 4,
        f"{vision}patch_embed.proj.bias": random(32),
        f"{text}embeddings.word_embeddings.weight": random(30, 24),
        f"{text}embeddings.position_embeddings.weight": random(40, 24),
        f"{text}embeddings.position_ids": torch.arange(40)[None],
        "blip.vision_proj.weight": random(4, 4),
    }  # fmt: skip
    state |= norms(f"{vision}norm", 32) | norms(f"{text}embeddings.LayerNorm", 24)
    for number in range(LAYERS):
        block = f"{vision}blocks.{number}."
        state |= norms(f"{block}norm1", 32) | norms(f"{block}norm2", 32)
        state |= linear(f"{block}attn.qkv", 96, 32) | linear(f"{block}attn.proj", 32, 32)
        state |= linear(f"{block}mlp.fc1", 64, 32) | linear(f"{block}mlp.fc2", 32, 64)
        layer = f"{text}encoder.layer.{number}."
        for part, inputs in (("attention", 24), ("crossattention", 32)):
            state |= linear(f"{layer}{part}.self.query", 24, 24)
            state |= linear(f"{layer}{part}.self.key", 24, inputs)
            state |= linear(f"{layer}{part}.self.value", 24, inputs)
            state |= linear(f"{layer}{part}.output.dense", 24, 24)
            state |= norms(f"{layer}{part}.output.LayerNorm", 24)
        state |= linear(f"{layer}intermediate.dense", 48, 24) | linear(f"{layer}output.dense", 24, 48)
        state |= norms(f"{layer}output.LayerNorm", 24)
    return state | linear_head("mlp.layers.", 24)


def image_reward_by_hand(state, images, token_rows):
    w = {name: value.double() for name, value in state.items() if value.is_floating_point()}

    def dense(x, name):
        return F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])

    def heads(x, num):
        return x.unflatten(-1, (num, -1)).transpose(1, 2)

    def mix(q, k, v):
        return ((q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1) @ v).transpose(1, 2).flatten(2)

    pixels = []
    for image in images:  # 32 x 48: the short side to 16, the middle of the long one
        picture = Image.fromarray((image.permute(1, 2, 0).numpy() * 255).round().astype("uint8"))
        square = picture.resize((24, 16), Image.Resampling.BICUBIC).crop((4, 0, 20, 16))
        pixels.append(torch.from_numpy(np.array(square)).permute(2, 0, 1).double() / 255)
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073], dtype=torch.float64)[:, None, None]
    deviation = torch.tensor([0.26862954, 0.26130258, 0.27577711], dtype=torch.float64)[:, None, None]
    v = "blip.visual_encoder."
    x = F.conv2d(
        (torch.stack(pixels) - mean) / deviation,
        w[f"{v}patch_embed.proj.weight"],
        w[f"{v}patch_embed.proj.bias"],
        stride=8,
    )
    x = torch.cat([w[f"{v}cls_token"].expand(len(x), 1, -1), x.flatten(2).transpose(1, 2)], 1)
    x = x + w[f"{v}pos_embed"]
    for number in range(LAYERS):
        block = f"{v}blocks.{number}."
        q, k, u = (
            heads(part, 16)
            for part in dense(norm(x, w, f"{block}norm1.", 1e-6), f"{block}attn.qkv").chunk(3, -1)
        )
        x = x + dense(mix(q, k, u), f"{block}attn.proj")
        x = x + dense(F.gelu(dense(norm(x, w, f"{block}norm2.", 1e-6), f"{block}mlp.fc1")), f"{block}mlp.fc2")
    seen = norm(x, w, f"{v}norm.", 1e-6)
    scores, e = [], "blip.text_encoder.embeddings."
    for row, ids in enumerate(token_rows):  # one by one, so that nothing is padded
        t = w[f"{e}word_embeddings.weight"][ids] + w[f"{e}position_embeddings.weight"][: len(ids)]
        t = norm(t[None], w, f"{e}LayerNorm.", 1e-12)
        for number in range(LAYERS):
            layer = f"blip.text_encoder.encoder.layer.{number}."
            for part, source in (("attention", None), ("crossattention", seen[row : row + 1])):
                source = t if source is None else source
                mixed = mix(
                    heads(dense(t, f"{layer}{part}.self.query"), 12),
                    heads(dense(source, f"{layer}{part}.self.key"), 12),
                    heads(dense(source, f"{layer}{part}.self.value"), 12),
                )
                t = norm(
                    t + dense(mixed, f"{layer}{part}.output.dense"),
                    w,
                    f"{layer}{part}.output.LayerNorm.",
                    1e-12,
                )
            inner = dense(F.gelu(dense(t, f"{layer}intermediate.dense")), f"{layer}output.dense")
            t = norm(t + inner, w, f"{layer}output.LayerNorm.", 1e-12)
        scores.append(through_head(t[:, 0], state, "mlp.layers."))
    return (torch.cat(scores) - 0.16717362830052426) / 1.0333394966054072


def test_image_reward_runs_blip_on_prompt_and_image_together(image_reward, images, tmp_path):
    from transformers import BertTokenizer

    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        "a",
        "cat",
        "dog",
        "two",
        "red",
        "fish",
        "in",
        "bowl",
    ]
    tokenizer = BertTokenizer(vocab={word: number for number, word in enumerate(words)})
    tokenizer.save_pretrained(tmp_path / "words")
    torch.save(image_reward, tmp_path / "ImageReward.pt")
    _convert.convert("image-reward", tmp_path / "ImageReward.pt", tmp_path / "model")
    reward = ImageReward(model=str(tmp_path / "model"), tokenizer=str(tmp_path / "words"))
    rows = [tokenizer(prompt).input_ids for prompt in PROMPTS]
    assert rows[0] == [2, 5, 6, 3]
    close(reward(images, PROMPTS), image_reward_by_hand(image_reward, images, rows))


# ---------------------------------------------------------------- what is refused


class Evil:
    def __reduce__(self):
        return (print, ("this must never run",))


def test_a_pickle_that_would_run_code_is_refused(tmp_path, capsys):
    (tmp_path / "evil.pt").write_bytes(pickle.dumps({"state_dict": Evil()}, protocol=2))
    torch.save({"state_dict": [1, 2]}, tmp_path / "list.pt")
    for name, sentence in (
        ("evil.pt", "more than plain tensors, and not read"),
        ("list.pt", "holds no state dict"),
    ):
        with pytest.raises(ModelError, match=sentence):
            _convert.convert("hpsv2", tmp_path / name, tmp_path / "out")
    assert capsys.readouterr().out == ""
    with pytest.raises(ModelError, match="exists already. Choose another name."):
        _convert.convert("hpsv2", tmp_path / "list.pt", tmp_path)


@pytest.mark.parametrize("kind", ["hpsv2", "image-reward", "aesthetic"])
def test_a_wrong_file_leaves_nothing_behind(kind, tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "wrong.pt")
    torch.save(linear_head("layers.", 8), tmp_path / "head.pth")
    for _ in range(2):
        with pytest.raises(ModelError, match=f"wrong.pt: not the weights of {kind} "):
            _convert.convert(kind, tmp_path / "wrong.pt", tmp_path / "new" / "out")
    assert list(tmp_path.rglob("new/*")) == []
    _convert.convert("aesthetic", tmp_path / "head.pth", tmp_path / "new" / "out")
    assert [path.name for path in tmp_path.glob("new/**/*")] == ["out", "model.safetensors"]


def test_folders_without_safe_weights_are_refused_with_the_way_out(clip, images, tmp_path):
    with pytest.raises(
        ModelError, match="^reward pickscore: model: no such folder, got 'lost'. Give a folder"
    ):
        PickScore(model="lost")(images, PROMPTS)
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled" / "head.pth").touch()
    with pytest.raises(ModelError) as caught:
        Aesthetic(model=str(tmp_path / "pickled"), clip=str(clip))(images, PROMPTS)
    assert str(caught.value) == (
        f"reward aesthetic: model: {tmp_path}/pickled needs weights as .safetensors, has only head.pth, a "
        "pickle, which can run code when it is loaded. Convert the published file once: `penchant rewards "
        "convert aesthetic FILE.pth FOLDER`."
    )
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "model.safetensors").write_bytes(b"x")
    with pytest.raises(
        ModelError, match="^reward clip-score: model: .*broken cannot be loaded .*Download or convert"
    ):
        ClipScore(model=str(tmp_path / "broken"))(images, PROMPTS)


def test_a_scorer_of_the_hub_is_fetched_without_pickles(clip, images, monkeypatch):
    from penchant import hub

    asked = []

    def stand_in(repository, *, revision, allow_patterns, ignore_patterns):
        asked.append((repository, revision, allow_patterns))
        return str(clip)

    monkeypatch.setattr(hub, "snapshot_download", stand_in)
    reward = ClipScore(model="someone/clip@v2")
    assert reward.version == ClipScore(model=str(clip)).version
    assert asked == [("someone/clip", "v2", ["*.json", "*.txt", "*.safetensors"])]


@pytest.mark.parametrize(
    ("reward", "usual"),
    [
        (lambda **options: PickScore(**options), "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"),
        (lambda **options: HPSv2(edition="2.1", **options), "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"),
        (lambda **options: ImageReward(**options), "google-bert/bert-base-uncased"),
    ],
)
def test_another_tokenizer_is_another_version(reward, usual, clip, tmp_path):
    (tmp_path / "vocab.json").write_text("{}")
    own = version_of("x", str(clip))
    assert reward(model=str(clip)).tokenizer == usual
    assert reward(model=str(clip)).version == own  # that of scores that are stored already
    assert reward(model=str(clip), tokenizer=str(clip)).version == own
    other = reward(model=str(clip), tokenizer=str(tmp_path)).version
    assert other == f"{own}+{version_of('x', str(tmp_path))}"
    with pytest.raises(ModelError, match="tokenizer: no such folder, got 'lost'"):
        _ = reward(model=str(clip), tokenizer="lost").version


def test_every_reward_is_listed_with_its_options(clip):
    lines = CliRunner().invoke(app, ["list"]).output.splitlines()
    assert [line.partition(":")[0] for line in lines if line[0] != " "] == catalog.names()
    assert lines[lines.index("    edition: needed") - 1] == "    model: needed"
    assert json.dumps(lines).count("pickscore") == 1
    assert isinstance(PickScore(model=str(clip)), Reward)
