"""What a run was made from: versions, hashes, composition, times."""

import importlib.metadata
import os
import platform
import resource
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import torch

from penchant import __version__
from penchant.runs.override import kind_of
from penchant.slots.compose import Method

PACKAGES: Final = ("torch", "diffusers", "transformers", "peft", "accelerate", "numpy")


def manifest(
    method: Method, *, seed: int, data_hash: str, model_hash: str, started: datetime, num_resumed: int = 0
) -> dict[str, Any]:
    """The content of manifest.json.

    Args:
        method: The composition that is trained, options set.
        seed: Seed of the run.
        data_hash: Content hash of the training data.
        model_hash: `model_hash` of the model's folder.
        started: When the run was started.
        num_resumed: How often it was continued.
    """
    return {
        "penchant": __version__,
        "commit": git_commit(Path(__file__).parent),
        "versions": versions(),
        "seed": seed,
        "data_hash": data_hash,
        "model_hash": model_hash,
        "method": method_as_dict(method),
        "started": started.astimezone(UTC).isoformat(timespec="seconds"),
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "num_resumed": num_resumed,
    }


def versions() -> dict[str, Any]:
    """Python, packages, platform and threads."""
    return {
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in PACKAGES},
        "platform": platform.platform(),
        "processors": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    }


def git_commit(folder: Path) -> str | None:
    """Commit of the checkout that a folder lies in, with `+changes` if files differ; None outside of one."""

    def git(*words: str) -> str:
        command = ["git", "-C", str(folder), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ".")
        return git("rev-parse", "HEAD") + ("+changes" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return None


def method_as_dict(method: Method) -> dict[str, Any]:
    """The composition with every option: what was trained, in plain values."""
    return {
        "name": method.name,
        "source": method.source,
        "shape": method.shape.value,
        "needs_reference": method.needs_reference,
        "ratio": slot_as_dict(method.ratio),
        "objective": slot_as_dict(method.objective),
        "weight": slot_as_dict(method.weight),
        "terms": [slot_as_dict(term) for term in method.terms],
    }


def slot_as_dict(slot: object) -> dict[str, Any]:
    """A slot as a run file writes it: its `kind` and options."""
    return {"kind": kind_of(type(slot)), **_options(slot)}


def _options(slot: object) -> Mapping[str, Any]:
    assert is_dataclass(slot)
    values = {field.name: getattr(slot, field.name) for field in fields(slot)}
    return {name: _options(value) if is_dataclass(value) else value for name, value in values.items()}


def peak_memory() -> int:
    """Largest resident memory of this process so far, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
