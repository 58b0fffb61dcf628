"""Pre-train the CLIPTextModel against real pictures, so that the UNet meets prompts that are told apart.

The end-of-text state has to pick its picture among all pictures (InfoNCE) and to guess its coordinates.
A picture is given by the principal coordinates of its VAE latent, so no image network is trained. A caption
without a style word fits every style.
Axes: B captions, N names, S styles.
"""

import argparse
import math
import random
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from budget import set_learning_rate
from captions import caption_of
from latents import encode_latents
from safetensors.torch import load_file
from sources import STYLES, load
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer


def new_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """The untrained text encoder."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=3,
        num_attention_heads=4,
        projection_dim=256,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        hidden_act="quick_gelu",
    )
    return CLIPTextModel._from_config(
        config, attn_implementation="eager"
    )  # the fused backward pass is slow on CPU


def soft_cross_entropy(logits: Tensor, positive: Tensor) -> Tensor:
    """Cross-entropy with several right answers per row, mean over rows."""
    return -(logits.log_softmax(1) * positive / positive.sum(1, keepdim=True)).sum(1).mean()


def picture_coordinates(latents: Tensor, dimensions: int) -> Tensor:
    """Principal coordinates of the latent pictures, half-way whitened, mean square 1; [N * S, dimensions]."""
    flat = latents.flatten(0, 1).flatten(1)
    flat = flat - flat.mean(0)
    left, strength, _ = torch.linalg.svd(flat, full_matrices=False)
    coordinates = left[:, :dimensions] * strength[:dimensions].sqrt()
    return coordinates / coordinates.square().mean().sqrt()


def main() -> None:
    """Train for a wall-clock budget and save to `work`/text_encoder (a few minutes: no resuming)."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--start", type=Path, help="folder of a text encoder to go on from")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    options = parser.parse_args()
    torch.set_num_threads(2)
    torch.manual_seed(1)
    dice = random.Random(1)
    emojis, pictures = load(options.work), picture_coordinates(encode_latents(options.work), 192)
    tokenizer = CLIPTokenizer.from_pretrained(options.work / "tokenizer")
    text, head = new_text_encoder(tokenizer), nn.Linear(256, pictures.shape[1])
    if options.start is not None:
        text.load_state_dict(load_file(options.start / "model.safetensors"))
    scale = nn.Parameter(torch.tensor(2.5))
    parameters = [*text.parameters(), *head.parameters(), scale]
    optimizer = torch.optim.AdamW(parameters, lr=options.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    name_of, style_of = torch.arange(len(pictures)) // len(STYLES), torch.arange(len(pictures)) % len(STYLES)
    started, step = time.monotonic(), 0
    while (fraction := (time.monotonic() - started) / (options.minutes * 60)) < 1:
        set_learning_rate(optimizer, options.learning_rate, step=step, fraction=fraction)
        chosen = torch.randint(len(pictures), (options.batch,))
        names, styles = name_of[chosen], style_of[chosen]
        drawn = [
            caption_of(emojis[n], s, dice, styled_share=0.6)
            for n, s in zip(names.tolist(), styles.tolist(), strict=True)
        ]
        named = torch.tensor([flag for _, flag in drawn])
        ids = tokenizer(
            [c for c, _ in drawn], padding="longest", truncation=True, return_tensors="pt"
        ).input_ids
        with torch.autocast("cpu", torch.bfloat16):
            guess = head(text(ids).pooler_output).float()
        logits = scale.exp() * F.normalize(guess, dim=-1) @ F.normalize(pictures, dim=-1).T
        positive = (names[:, None] == name_of) & (~named[:, None] | (styles[:, None] == style_of))
        distance = F.mse_loss(guess, pictures[chosen])
        loss = soft_cross_entropy(logits, positive.float()) + 3 * distance
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            scale.clamp_(max=math.log(40))
        step += 1
        if step % 25 == 0:
            right = positive.gather(1, logits.argmax(1, keepdim=True)).float().mean()
            print(
                f"step {step} share {fraction:.2f} loss {loss:.3f} "
                f"distance {distance:.3f} right {right:.3f} scale {scale.exp():.1f}",
                flush=True,
            )
    text.eval().save_pretrained(options.work / "text_encoder")


if __name__ == "__main__":
    main()
