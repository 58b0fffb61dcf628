"""Train the UNet: v-prediction on cached latents and prompt embeddings, for a time budget, resumable.

Weights are held in float32. Each of W processes has its own bfloat16 copy and its own part of the batch, on
one core: with many small layers that is faster than several cores per layer, and than threads, which share
one interpreter. What gets exported is a moving average of the weights.
Axes: B examples, C H W latent (8 x 8 x 8), T tokens, E embedding.
"""

import argparse
import random
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import checkpoint
import torch
from budget import set_learning_rate
from convolution import speed_up
from diffusers import DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from latents import encode_latents
from safetensors.torch import load_file, save_file
from sources import STYLES, Emoji, load, styled
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

HIGHEST_WEIGHTED_SNR = 5.0


def new_unet() -> UNet2DConditionModel:
    """The untrained network."""
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=8,
        out_channels=8,
        block_out_channels=(160, 224),
        layers_per_block=1,
        cross_attention_dim=256,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        mid_block_type="UNetMidBlock2DCrossAttn",
        attention_head_dim=4,
        norm_num_groups=16,
        use_linear_projection=True,
    )


def new_scheduler() -> DDIMScheduler:
    """Cosine schedule that ends in (nearly) pure noise, as white backgrounds need."""
    return DDIMScheduler(
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        clip_sample=False,
        set_alpha_to_one=False,
        timestep_spacing="trailing",
        steps_offset=1,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompts:
    """Embeddings of all training captions.

    Attributes:
        embeddings: [P, T, E] bfloat16; prompt 0 is the empty one.
        index: index[name][style + 1] lists the prompts of a name, the bare name first;
            position 0 has no style word.
    """

    embeddings: Tensor
    index: list[list[list[int]]]

    def draw(self, name: int, style: int, dice: random.Random) -> int:
        """A random prompt of the picture: 10 % empty, else 60 % with style word, 75 % the bare name."""
        if dice.random() < 0.1:
            return 0
        choices = self.index[name][style + 1 if dice.random() < 0.6 else 0]
        return choices[0] if len(choices) == 1 or dice.random() < 0.75 else dice.choice(choices[1:])


def wordings(emoji: Emoji) -> list[str]:
    """The name, its synonyms, and the name with its first keywords."""
    return [emoji.name, *emoji.synonyms, *(f"{emoji.name}, {keyword}" for keyword in emoji.keywords[:2])]


@torch.no_grad()
def embed_prompts(emojis: list[Emoji], work: Path) -> Prompts:
    """Run the frozen text encoder once over every caption (cached in `work`/prompts.safetensors)."""
    captions, index = [""], []
    for emoji in emojis:
        index.append([])
        for style in (None, *STYLES):
            texts = [styled(words, style) for words in wordings(emoji)]
            index[-1].append(list(range(len(captions), len(captions) + len(texts))))
            captions += texts
    file = work / "prompts.safetensors"
    if not file.is_file():
        tokenizer = CLIPTokenizer.from_pretrained(work / "tokenizer")
        encoder = CLIPTextModel.from_pretrained(work / "text_encoder").eval()
        ids = tokenizer(
            captions,
            padding="max_length",
            truncation=True,
            max_length=tokenizer.model_max_length,
            return_tensors="pt",
        ).input_ids
        save_file(
            {
                "embeddings": torch.cat(
                    [encoder(part).last_hidden_state.bfloat16() for part in ids.split(512)]
                )
            },
            file,
        )
    return Prompts(embeddings=load_file(file)["embeddings"], index=index)


def new_working_copy() -> UNet2DConditionModel:
    """A bfloat16 network with attention and convolutions whose backward pass is fast on CPU."""
    copy = new_unet().to(torch.bfloat16).to(memory_format=torch.channels_last)
    copy.set_attn_processor(AttnProcessor())
    speed_up(copy)
    return copy


def backward(
    network: UNet2DConditionModel,
    clean: Tensor,
    noise: Tensor,
    time_steps: Tensor,
    prompt: Tensor,
    signal: Tensor,
) -> float:
    """Add the gradient of the mean weighted v-error to the network's gradients; returns that error.

    The weight is min(snr + 1, 5) / (snr + 1): min-SNR weighting (Hang et al. 2023) that does not vanish at
    pure noise.
    """
    share = signal[time_steps]
    alpha, sigma = share.sqrt()[:, None, None, None], (1 - share).sqrt()[:, None, None, None]
    noisy = (alpha * clean + sigma * noise).bfloat16().contiguous(memory_format=torch.channels_last)
    output = network(noisy, time_steps, prompt, return_dict=False)[0]
    error = (output.float() - (alpha * noise - sigma * clean)).square().mean(dim=(1, 2, 3))
    loss = ((HIGHEST_WEIGHTED_SNR * (1 - share)).clamp(max=1) * error).mean()
    loss.backward()
    return loss.item()


def main() -> None:
    """Train until the budget is spent; continues from `work`/unet.safetensors if it is there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument(
        "--minutes",
        type=float,
        default=100.0,
        help="budget over all resumed parts; the learning rate ends with it",
    )
    parser.add_argument("--piece", type=int, default=32, help="pictures that go through the network at once")
    parser.add_argument("--pieces", type=int, default=2, help="pieces per process and step")
    parser.add_argument(
        "--workers", type=int, default=1, help="processes, one core each; the batch is split among them"
    )
    parser.add_argument("--learning-rate", type=float, default=9e-4)
    parser.add_argument("--average", type=float, default=0.998, help="decay of the moving average per step")
    options = parser.parse_args()
    emojis = load(options.work)
    encode_latents(options.work)
    embed_prompts(emojis, options.work)
    with tempfile.TemporaryDirectory() as meeting:
        torch.multiprocessing.spawn(train, (options, f"file://{meeting}/store"), nprocs=options.workers)


def train(rank: int, options: argparse.Namespace, meeting: str) -> None:  # noqa: C901
    """One of the processes: its share of every batch; gradients are summed, so all take the same steps."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=options.workers)
    latents, prompts = encode_latents(options.work), embed_prompts(load(options.work), options.work)
    signal = new_scheduler().alphas_cumprod
    torch.manual_seed(0)
    master = new_unet()  # float32
    average = {key: value.clone() for key, value in master.state_dict().items()}
    optimizer = torch.optim.AdamW(
        master.parameters(), lr=options.learning_rate, betas=(0.9, 0.99), weight_decay=0.01, fused=True
    )
    state_file = options.work / "unet.safetensors"
    step, samples, spent = 0, 0, 0.0
    if state_file.is_file():
        tensors, meta = checkpoint.load(state_file)
        master.load_state_dict(
            {key.removeprefix("model."): value for key, value in tensors.items() if key.startswith("model.")}
        )
        average = {
            key.removeprefix("average."): value
            for key, value in tensors.items()
            if key.startswith("average.")
        }
        checkpoint.restore_optimizer(master, optimizer, tensors)
        step, samples, spent = int(meta["step"]), int(meta["samples"]), meta["spent"]
        del tensors
    worker = new_working_copy()
    masters, copies = list(master.parameters()), list(worker.parameters())
    averages = [average[name] for name, _ in master.named_parameters()]
    gradient = torch.zeros(sum(parameter.numel() for parameter in masters))
    slices = gradient.split([parameter.numel() for parameter in masters])
    for parameter, part in zip(masters, slices, strict=True):
        parameter.grad = part.view_as(parameter)
    with torch.no_grad():
        torch._foreach_copy_(copies, masters)
    dice = random.Random(step)
    torch.manual_seed(step)

    def write() -> None:
        tensors = {f"model.{key}": value for key, value in master.state_dict().items()}
        tensors |= {f"average.{key}": value for key, value in average.items()} | checkpoint.optimizer_tensors(
            master, optimizer
        )
        checkpoint.save(state_file, tensors, step=step, samples=samples, spent=spent)

    num_pictures, batch = (
        latents.shape[0] * latents.shape[1],
        options.piece * options.pieces * options.workers,
    )
    order: list[int] = []
    last = written = printed = time.monotonic()
    losses: list[float] = []
    clock = torch.zeros(1, dtype=torch.float64)
    while spent < options.minutes * 60:
        fraction = spent / (options.minutes * 60)
        rate = set_learning_rate(optimizer, options.learning_rate, step=step, fraction=fraction, warmup=150)
        while len(order) < batch:
            order += torch.randperm(num_pictures).tolist()
        chosen, order = order[:batch], order[batch:]
        names, styles = [c // len(STYLES) for c in chosen], [c % len(STYLES) for c in chosen]
        prompt = prompts.embeddings[[prompts.draw(n, s, dice) for n, s in zip(names, styles, strict=True)]]
        # Stratified, and denser towards noise, where the caption has to say what is drawn.
        time_steps = (
            (((torch.arange(batch) + torch.rand(batch)) / batch) ** 0.75 * 1000).long().clamp(max=999)
        )
        time_steps = time_steps[torch.randperm(batch)]
        clean = latents[names, styles]
        drawn = (clean, torch.randn_like(clean), time_steps, prompt)
        gradient.zero_()
        for piece in range(rank, options.pieces * options.workers, options.workers):
            losses.append(backward(worker, *(t.split(options.piece)[piece] for t in drawn), signal))
            with torch.no_grad():
                for parameter, working in zip(masters, copies, strict=True):
                    parameter.grad.add_(working.grad)
                    working.grad = None
        torch.distributed.all_reduce(gradient)
        gradient /= options.pieces * options.workers
        norm = torch.nn.utils.clip_grad_norm_(masters, 1.0, foreach=True)
        optimizer.step()
        step, samples = step + 1, samples + batch
        with torch.no_grad():
            torch._foreach_copy_(copies, masters)
        decay = min(options.average, (1 + step) / (10 + step))
        if rank == 0:
            torch._foreach_lerp_(averages, [parameter.detach() for parameter in masters], 1 - decay)
        now = time.monotonic()
        clock[0] = spent + now - last
        torch.distributed.broadcast(clock, 0)
        spent, last = clock.item(), now
        if step % 50 == 0 and rank == 0:
            mean = sum(losses) / len(losses)
            speed = 50 * batch / (now - printed)
            print(
                f"step {step} samples {samples} minutes {spent / 60:.1f} loss {mean:.4f} "
                f"norm {norm:.2f} rate {rate:.2e} samples/s {speed:.0f}",
                flush=True,
            )
            losses.clear()
            printed = now
        if now - written > 300:
            if rank == 0:
                write()
            written = now
    if rank == 0:
        write()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
