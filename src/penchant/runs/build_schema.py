"""What a build file may say: how preference data is made from a model and rewards."""

from typing import Annotated, Literal, final

from pydantic import Field

from penchant.runs.schema import Named, Section


@final
class Sampling(Section):
    """How the model draws."""

    num_steps: int = Field(default=20, ge=1, description="Denoising steps of the sampler.")
    guidance: float = Field(
        default=3.0, ge=1, description="Scale of classifier-free guidance; 1 is unguided."
    )
    eta: float = Field(
        default=0.0, ge=0, le=1, description="Noise of the sampler: 0 is deterministic DDIM, 1 ancestral."
    )
    size: int | None = Field(
        default=None, ge=8, description="Side of the images in pixels; null is the model's own."
    )
    precision: Literal["float32", "bfloat16", "float16"] = Field(
        default="float32", description="Type of the weights while sampling; float16 is for accelerators."
    )
    batch_size: int = Field(default=16, ge=1, description="Images that are sampled at once.")


@final
class Pairing(Section):
    """How scored candidates become examples."""

    rule: Literal["best-vs-worst", "all", "adjacent", "random", "list"] = Field(
        default="best-vs-worst",
        description="`best-vs-worst` and `random` give one pair per prompt, `adjacent` neighbours in the "
        "order, `all` every two, `list` all candidates as one ranked row.",
    )
    min_gap: float = Field(
        default=0.0, ge=0, description="Smallest difference of scores that makes a pair; not read by `list`."
    )


@final
class Filters(Section):
    """Which candidates are left out before they are compared."""

    min_score: float | None = Field(
        default=None,
        description="Lowest score that is kept, in the unit of the first reward; null keeps all.",
    )
    near_duplicates: int | None = Field(
        default=None,
        ge=0,
        le=64,
        description="Of candidates of a prompt whose perceptual hashes differ in at most so many of 64 bits, "
        "the first is kept; null keeps all. Needs the extra `build`.",
    )


@final
class BuildFile(Section):
    """Preference data from one model and some rewards."""

    model: str = Field(min_length=1, description="The model that draws, named as in a run file.")
    prompts: str = Field(min_length=1, description="File of prompts: .txt, .jsonl, .parquet or .tsv.")
    num_prompts: int | None = Field(
        default=None, ge=1, description="The first so many prompts; null takes all."
    )
    num_candidates: int = Field(default=4, ge=2, description="Images per prompt.")
    sampling: Sampling = Field(default_factory=lambda: Sampling())
    rewards: Annotated[list[Named], Field(min_length=1)] = Field(
        description="Rewards that score every image; the first decides what is preferred."
    )
    pairs: Pairing = Field(default_factory=lambda: Pairing())
    filters: Filters = Field(default_factory=lambda: Filters())
    seed: int = Field(default=0, ge=0, lt=2**63, description="Seed of the images.")
    output: str = Field(min_length=1, description="Folder of the images, their scores and pairs.parquet.")
