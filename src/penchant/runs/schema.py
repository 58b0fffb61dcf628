"""What a run file may say: every option with its unit, range and default.

Sizes count groups: one prompt with its candidates (for pairs, one pair). Paths are relative to the folder in
which the command runs.
"""

import re
from typing import Annotated, Any, Final, Literal, Self, final

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from penchant.runs.sentences import shown

HELD_OUT: Final = "held-out"
"""Value of evaluation.prompts: take the prompts of a split of the data."""

STYLE: Final = "style"
"""Value of evaluation.metric: the judge of the shipped pairs, with evaluation.preferred_style."""

AUTO: Final = "auto"
"""Value of objective.beta: find it by a probe."""

Options = dict[str, Any]


def _named(value: object) -> object:
    if isinstance(value, str) or (isinstance(value, dict) and isinstance(value.get("kind"), str)):
        return value
    raise ValueError(f"must be a name or a mapping with `kind`, got {shown(value)}")


Named = Annotated[str | Options, BeforeValidator(_named)]
"""A reward: its name, or a mapping with its `kind` and options."""


class Section(BaseModel):
    """A section of a file: unknown options and wrong types are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    def changed(self, *names: str) -> list[str]:
        """Those of the named options that differ from their defaults."""
        defaults = {
            name: type(self).model_fields[name].get_default(call_default_factory=True) for name in names
        }
        return [name for name, default in defaults.items() if getattr(self, name) != default]


def _ratio(text: str) -> str:
    if not re.fullmatch(r"[1-9]\d*x[1-9]\d*", text):
        raise ValueError(f"must be a width and a height such as 4x3, got {text!r}.")
    return text


@final
class Buckets(Section):
    """Sizes of training images, all of about one area."""

    ratios: list[Annotated[str, AfterValidator(_ratio)]] = Field(
        min_length=1,
        description="Width to height of each bucket, as `1x1`, `4x3`, `832x1216`; a group takes the one that "
        "is nearest to its winner, in the ratio of the sides.",
    )
    step: int = Field(
        default=64, ge=1, description="Sides of the buckets are rounded to multiples of it, in pixels."
    )


Names = Annotated[list[str], Field(min_length=1)]


@final
class Columns(Section):
    """What the columns of a table mean; lists name one column per candidate, or one that holds a list."""

    images: Names = Field(description="Columns of the images: encoded bytes, or paths beside the table.")
    prompt: str | None = Field(default=None, description="Column of the prompt; null has none.")
    scores: Names | None = Field(default=None, description="Columns of scores, higher is better.")
    ranks: Names | None = Field(default=None, description="Columns of ranks, lower is better.")
    votes: Names | None = Field(default=None, description="Columns of votes, more is better.")
    winner: str | None = Field(
        default=None, description="Column with the number of the preferred image, counted from 0."
    )
    label: str | None = Field(
        default=None,
        description="Column that says whether a single image is desirable: true, false, 1 or -1.",
    )
    group: str | None = Field(
        default=None, description="Column whose equal values make one example of rows of one image each."
    )
    split: str | None = Field(default=None, description="Column of the split; null takes it from file names.")


@final
class Data(Section):
    """What people preferred."""

    path: str = Field(
        min_length=1,
        description="Name of a data set that ships with Penchant (`emoji-pairs`), a file (.parquet, .tar, "
        ".jsonl, .json), a folder of such files or of images, or `owner/name@revision` on the Hugging Face "
        "hub.",
    )
    config: str | None = Field(
        default=None, min_length=1, description="Folder of the data set to take; null takes all of it."
    )
    columns: Columns | None = Field(
        default=None, description="What the columns mean; null finds it out for the layouts of docs/data.md."
    )
    train_split: str | None = Field(default="train", description="Split to learn from; null takes every row.")
    heldout_split: str | None = Field(
        default="validation", description="Split that is measured during training; null measures none."
    )
    prompt_dropout: float = Field(
        default=0.1, ge=0, le=1, description="Share of groups that are shown without their prompt, in [0, 1]."
    )
    flip: bool = Field(
        default=False, description="Mirror images at random; all candidates of a group are mirrored together."
    )
    size: int | None = Field(
        default=None,
        ge=8,
        description="Edge of the square that images are resized to and drawn at, in pixels; null is the "
        "model's own.",
    )
    buckets: Buckets | None = Field(
        default=None,
        description="Aspect buckets of the area of that square; null crops every image to the square.",
    )
    crops: int = Field(
        default=1,
        ge=1,
        description="Windows of each image, evenly spaced along the side that is cut; each epoch a group "
        "takes one at random, the same for all candidates. 1 is the middle.",
    )
    cache: str | None = Field(
        default=None,
        min_length=1,
        description="Folder in which encoded images and prompts are kept between runs, in half precision; "
        "null keeps them in memory, in float32.",
    )
    pairs: Literal["all", "best-vs-worst", "adjacent"] = Field(
        default="all",
        description="Which comparisons of a list become pairs: every two candidates, the best against the "
        "worst, or neighbours in the order. Only for methods of pairs.",
    )
    min_gap: float = Field(
        default=0.0,
        ge=0,
        description="Smallest difference of scores (ranks, votes) that makes a pair; closer ones are ties. "
        "Only for methods of pairs.",
    )
    labels: Literal["preferred-once", "always", "best-of-n"] = Field(
        default="preferred-once",
        description="Which candidates of a list are desirable: those that won a comparison, that never lost "
        "one (mixed ones are left out), or the best alone. Only for methods of labels.",
    )
    top_k: int | None = Field(
        default=None,
        ge=2,
        description="Candidates of a ranked list that are kept, the best ones; null keeps all. Only for "
        "methods of lists.",
    )
    min_size: int | None = Field(
        default=None,
        ge=1,
        description="Shorter side in pixels that every image of a group has at least; other groups are left "
        "out and counted. null keeps all.",
    )
    streaming: bool = Field(
        default=False,
        description="Read the images of a step shortly before it comes and encode them then, for data that "
        "does not fit into memory; the encoders then stay in memory.",
    )
    shuffle_buffer: int = Field(
        default=1024,
        ge=1,
        description="Rows that are kept in memory and shuffled among each other; only with streaming.",
    )
    max_broken: float = Field(
        default=0.01,
        ge=0,
        le=1,
        description="Share of rows that may be broken, in [0, 1]; they are counted and replaced. More stop "
        "the run. Only with streaming; else the first broken row does.",
    )

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        for name in self.changed("shuffle_buffer", "max_broken") if not self.streaming else ():
            raise ValueError(f"{name} is only read with streaming: true. Remove {name} or set that.")
        return self


@final
class Lora(Section):
    """The adapter of `mode: lora`."""

    rank: int = Field(default=16, ge=1, description="Rank of the update of each layer.")
    alpha: int | None = Field(
        default=None,
        ge=1,
        description="The update is scaled by alpha / rank; null takes the rank, a scale of 1.",
    )
    targets: Annotated[list[str], Field(min_length=1)] | None = Field(
        default=None,
        description="Ends of the names of the layers that get an update; null is the model family's list.",
    )
    text_encoder: bool = Field(
        default=False,
        description="The text encoder gets updates as well, and runs at each step; `targets` are then looked "
        "for in it too. Only for SD 1.x and 2.x.",
    )
    start_from: str | None = Field(
        default=None,
        description="Adapter folder to continue from; the reference is then the model with this adapter.",
    )

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        own = ("rank", "alpha", "targets", "text_encoder")
        for name in self.changed(*own) if self.start_from is not None else ():
            raise ValueError(f"{name} is that of the adapter in start_from. Remove {name}.")
        return self


@final
class Noise(Section):
    """Noise levels of the training; what is left out is the model's own."""

    draw: Literal["independent", "stratified", "antithetic", "importance"] = Field(
        default="independent",
        description="How the timesteps of a step are drawn: each for itself; one in each of as many equal "
        "parts of their law as there are groups; in mirrored pairs; or more often where the gradient factor "
        "is large, with weights that undo it.",
    )
    timesteps: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] | None = Field(
        default=None,
        description="The only timesteps that are trained, all alike, as for few-step models (SDXL-Turbo: "
        "249, 499, 749, 999); null trains all. Not for flow models.",
    )
    zero_terminal_snr: bool = Field(
        default=False,
        description="Stretch the noise schedule so that its last timestep is pure noise. Not for flow "
        "models.",
    )
    shift: float | None = Field(
        default=None,
        gt=0,
        description="Moves noise levels up, s to shift s / (1 + (shift - 1) s); null is the model's. Only "
        "for flow models.",
    )


@final
class Reference(Section):
    """What the policy is compared with."""

    kind: Literal["start", "copy", "moving", "cached"] = Field(
        default="start",
        description="`start`: the model as it was, by switching the adapter off or back (mode `lora`) or "
        "from a frozen copy (mode `full`); `copy`: a frozen copy in both modes; `moving`: follows the "
        "policy; `cached`: its errors, measured once before the training.",
    )
    offload: bool = Field(
        default=False,
        description="Keep the frozen copy in main memory and bring it to the accelerator layer by layer.",
    )
    mix: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="Only `moving`: share of the policy's weights that the reference takes over, in (0, 1]; "
        "1 makes it the policy.",
    )
    every: int = Field(default=512, ge=1, description="Only `moving`: steps between these updates.")
    draws: int = Field(
        default=16,
        ge=1,
        description="Only `cached`: noise draws per group; the passes over the data take turns with them.",
    )
    folder: str | None = Field(
        default=None,
        min_length=1,
        description="Only `cached`: folder in which the errors are kept, for this run and others on the same "
        "model and data; null keeps them in memory.",
    )

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        for kind, names in {"moving": ("mix", "every"), "cached": ("draws", "folder")}.items():
            for name in self.changed(*names) if kind != self.kind else ():
                raise ValueError(
                    f"{name} is only read by kind {kind!r}, got kind {self.kind!r}. Remove {name}."
                )
        return self


_FROZEN_COPIES: Final = (("full", "start"), ("full", "copy"), ("lora", "copy"))
"""Modes and kinds of reference whose reference is a second network that stays as it is."""


@final
class Training(Section):
    """How the model learns."""

    mode: Literal["lora", "full"] = Field(
        default="lora", description="`lora` trains a small adapter, `full` every weight of the denoiser."
    )
    lora: Lora = Field(
        default_factory=lambda: Lora(), description="Options of the adapter; only with mode `lora`."
    )
    reference: Reference = Field(
        default_factory=lambda: Reference(), description="Only for methods with a reference."
    )
    steps: int = Field(ge=1, description="Optimizer steps.")
    batch_size: int = Field(default=32, ge=1, description="Groups per optimizer step, over all processes.")
    micro_batch_size: int | None = Field(
        default=None,
        ge=1,
        description="Groups per forward pass of one process; null does its whole share at once. It "
        "changes memory, not the result.",
    )
    learning_rate: float = Field(
        default=1e-4, gt=0, description="Peak learning rate; never scaled by anything."
    )
    warmup_steps: int = Field(
        default=0, ge=0, description="Steps over which the learning rate rises from 0, <= steps."
    )
    schedule: Literal["constant", "linear", "cosine"] = Field(
        default="constant",
        description="Learning rate after the warm-up: constant, or falling to 0 at the last step.",
    )
    optimizer: Literal["adamw", "adamw-8bit", "adamw-4bit", "adafactor"] = Field(
        default="adamw",
        description="`adamw-8bit` keeps its moments in 8 bits (extra `low-bit`), `adamw-4bit` in 4 (extra "
        "`four-bit`); `adafactor` has rows and columns of moments, and reads neither betas nor epsilon.",
    )
    betas: Annotated[
        tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]], Field(strict=False)
    ] = Field(default=(0.9, 0.999), description="Decay of AdamW's two moments, each in [0, 1).")
    weight_decay: float = Field(
        default=0.01, ge=0, description="Decoupled weight decay, per unit of learning rate."
    )
    epsilon: float = Field(default=1e-8, gt=0, description="AdamW's guard against division by 0.")
    max_grad_norm: float | None = Field(
        default=1.0, gt=0, description="The gradient is scaled down to this norm; null does not clip."
    )
    precision: Literal["float32", "bfloat16"] = Field(
        default="float32",
        description="Precision of the forward pass, and of frozen weights in mode `lora`; trained weights "
        "and errors stay float32.",
    )
    quantized: Literal["int8", "nf4"] | None = Field(
        default=None,
        description="Keep the frozen weights of linear layers in 8 or 4 bits (extra `low-bit`); only with "
        "mode `lora` and precision `bfloat16`.",
    )
    gradient_checkpointing: bool = Field(
        default=False, description="Compute activations twice to save memory; costs about a third more time."
    )
    ema: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="Decay of a moving average of the weights, in (0, 1); null keeps none.",
    )
    checkpoint_every: int = Field(default=100, ge=1, description="Steps between checkpoints.")
    keep_checkpoints: int = Field(default=2, ge=1, description="Newest checkpoints that are kept.")
    heldout_every: int = Field(
        default=50,
        ge=1,
        description="Steps between measurements on the held-out split; the end is always measured.",
    )
    heldout_examples: int = Field(default=64, ge=1, description="Held-out groups that are measured, at most.")
    heldout_draws: int = Field(
        default=4, ge=1, description="Noise draws per held-out group; the same each time."
    )

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.mode == "full" and self.changed("lora"):
            raise ValueError(
                "lora is only read with mode 'lora', got mode 'full'. Remove lora or change the mode."
            )
        if self.quantized is not None and (self.mode, self.precision) != ("lora", "bfloat16"):
            raise ValueError(
                f"quantized is only for mode 'lora' with precision 'bfloat16', got mode {self.mode!r} and "
                f"precision {self.precision!r}. Change them, or remove quantized."
            )
        if self.mode == "lora" and self.reference.mix != 1:
            raise ValueError(
                f"reference.mix must be 1 with mode 'lora', got {self.reference.mix}: the mean of two "
                "adapters' factors is not the adapter of their mean. Leave it out, or take mode 'full'."
            )
        if self.reference.offload and (self.mode, self.reference.kind) not in _FROZEN_COPIES:
            raise ValueError(
                f"reference.offload is for a frozen copy, got mode {self.mode!r} and reference.kind "
                f"{self.reference.kind!r}. Remove offload, or take kind 'copy'."
            )
        if self.micro_batch_size is not None and self.micro_batch_size > self.batch_size:
            raise ValueError(
                f"micro_batch_size must be <= batch_size {self.batch_size}, got {self.micro_batch_size}. "
                "Lower it or leave it out."
            )
        if self.warmup_steps > self.steps:
            raise ValueError(f"warmup_steps must be <= steps {self.steps}, got {self.warmup_steps}.")
        for name in self.changed("betas", "epsilon") if self.optimizer == "adafactor" else ():
            raise ValueError(
                f"{name} is only read by optimizer 'adamw', got optimizer 'adafactor'. Remove {name}."
            )
        return self


@final
class Online(Section):
    """Source of candidates for methods that sample the model while they train."""

    prompts_per_step: int = Field(default=4, ge=1, description="Prompts that are sampled per optimizer step.")
    reward: Named = Field(
        description="Reward that ranks the samples: a name, or a mapping with `kind` and options."
    )


@final
class Health(Section):
    """When training warns, and when it stops itself."""

    winner_error_limit: float | None = Field(
        default=0.02,
        gt=0,
        description="Rise of the winners' denoising error over the reference, in mean squared error per "
        "latent element, above which training reacts; null never does.",
    )
    on_winner_error: Literal["warn", "stop"] = Field(
        default="warn", description="What happens above that limit."
    )
    spike_factor: float = Field(
        default=10.0,
        gt=1,
        description="A gradient norm above this many times its running mean is called a spike.",
    )
    saturation_share: float = Field(
        default=0.9,
        gt=0,
        le=1,
        description="Share of groups without noticeable gradient (factor below 0.005) above which training "
        "warns, in (0, 1].",
    )
    window: int = Field(default=20, ge=1, description="Steps over which these running means reach back.")


@final
class AutoBeta(Section):
    """How `objective: {beta: auto}` finds its value."""

    gradient_factor: float = Field(
        default=0.3,
        gt=0,
        lt=0.5,
        description="Mean gradient factor aimed at after the probe, in (0, 0.5); 0.5 is the untrained model.",
    )
    probe_steps: int = Field(
        default=20, ge=1, description="Optimizer steps of the probe; its weights are thrown away."
    )


@final
class Evaluation(Section):
    """Base and trained model on the same prompts and seeds."""

    prompts: str = Field(
        default=HELD_OUT,
        min_length=1,
        description="`held-out` takes the prompts of a split of the data; else a file (.txt, .jsonl, "
        ".parquet, .tsv).",
    )
    split: str = Field(
        default="test", min_length=1, description="Split of the data; only with prompts `held-out`."
    )
    num_prompts: int | None = Field(
        default=None, ge=1, description="The first so many prompts; null takes all."
    )
    seeds_per_prompt: int = Field(default=1, ge=1, description="Images per prompt and model.")
    diversity_prompts: int = Field(
        default=16,
        ge=0,
        description="With one seed per prompt: the first so many prompts get a second seed, by which the "
        "drift panel measures the diversity between seeds.",
    )
    first_model: str | None = Field(
        default=None,
        min_length=1,
        description="Model that begins the images of one that refines, named as `model`; only for the SDXL "
        "refiner, whose base and tuned model go on with its latents.",
    )
    num_steps: int = Field(default=20, ge=1, description="Denoising steps of the sampler.")
    guidance: float = Field(
        default=3.0, ge=1, description="Scale of classifier-free guidance; 1 is unguided."
    )
    eta: float = Field(
        default=0.0, ge=0, le=1, description="Noise of the sampler: 0 is deterministic DDIM, 1 ancestral."
    )
    precision: Literal["float32", "bfloat16", "float16"] = Field(
        default="float32",
        description="Type of the weights while sampling, as diffusers' `dtype`; float16 is for accelerators.",
    )
    batch_size: int = Field(default=16, ge=1, description="Images that are sampled at once.")
    metric: Named | None = Field(
        default=None,
        description="Reward behind the headline win-rate, a name or a mapping with `kind` and options; null "
        "is `style` for the shipped pairs. It may not be the one that training aims at.",
    )
    scores: list[Named] = Field(
        default=["style", "caption-match"],
        description="Rewards to report, each a name or a mapping with `kind` and options.",
    )
    score_cache: str | None = Field(
        default=None,
        min_length=1,
        description="File of scores that several runs may share, so that the images of a base model are "
        "scored once; null is `scores.sqlite` in the run folder.",
    )
    preferred_style: str = Field(
        default="fluent",
        min_length=1,
        description="Style whose share of the images is counted; only with metric `style` or null.",
    )

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.prompts != HELD_OUT and self.changed("split"):
            raise ValueError(
                f"split is only read with prompts {HELD_OUT!r}, got prompts {self.prompts!r}. Remove split."
            )
        if self.seeds_per_prompt > 1 and self.changed("diversity_prompts"):
            raise ValueError(
                "diversity_prompts is only read with one seed per prompt, got seeds_per_prompt "
                f"{self.seeds_per_prompt}, which show the diversity by themselves. Remove diversity_prompts."
            )
        if self.metric not in (None, STYLE) and self.changed("preferred_style"):
            raise ValueError(
                f"preferred_style is only read by metric {STYLE!r}, got metric {shown(self.metric)}. Remove "
                "preferred_style, or the metric."
            )
        return self


@final
class RunFile(Section):
    """One training run."""

    model: str = Field(
        min_length=1,
        description="Name of a model that ships with Penchant (`emoji`), a folder in diffusers' form, "
        "`owner/name@revision` on the Hugging Face hub, or a single file, `FILE.safetensors@CONFIGURATION`.",
    )
    data: Data
    method: str = Field(min_length=1, description="Name of a method; `penchant methods` lists them.")
    ratio: Options = Field(
        default_factory=dict, description="Options of the method's log-ratio; `kind` takes another one."
    )
    objective: Options = Field(
        default_factory=dict,
        description="Options of the method's objective; `kind` takes another one; `beta: auto` finds beta by "
        "a probe.",
    )
    weight: Options = Field(
        default_factory=dict, description="Options of the weight of each group; `kind` takes another one."
    )
    terms: list[Options] | None = Field(
        default=None,
        description="Losses added to the objective, each with its `kind` and options; they replace the "
        "method's own. null keeps those.",
    )
    experimental: bool = Field(default=False, description="Allow slots that are marked experimental.")
    noise: Noise = Field(default_factory=lambda: Noise())
    training: Training
    online: Online | None = Field(
        default=None, description="Only for methods that sample the model while they train."
    )
    health: Health = Field(default_factory=lambda: Health())
    auto_beta: AutoBeta = Field(
        default_factory=lambda: AutoBeta(), description="Only with `objective: {beta: auto}`."
    )
    evaluation: Evaluation = Field(default_factory=lambda: Evaluation())
    seed: int = Field(default=0, ge=0, lt=2**63, description="Seed of every random draw of the run.")
    output: str = Field(min_length=1, description="Folder that the run is written to.")

    @property
    def wants_auto_beta(self) -> bool:
        """True if beta is to be found by a probe."""
        return self.objective.get("beta") == AUTO

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if not self.wants_auto_beta and self.changed("auto_beta"):
            raise ValueError(
                "auto_beta is only read with objective: {beta: auto}, "
                f"got beta {self.objective.get('beta', 'of the method')}. Remove auto_beta or set that."
            )
        return self
