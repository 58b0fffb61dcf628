"""One training run, from a run file to weights that plain diffusers loads."""

import logging
import shutil
import signal
from collections.abc import Callable
from contextlib import closing, nullcontext
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from accelerate import Accelerator
from diffusers import AutoModel
from rich.console import Console

from penchant import families, log
from penchant.errors import Interrupted, RunFolderError
from penchant.files import give_usual_rights
from penchant.runs.assemble import Assembled, assemble, max_grad_norm
from penchant.runs.evaluate import require_possible
from penchant.runs.folder import (
    RunFolder,
    write_json_atomically,
    write_text_atomically,
    writing,
)
from penchant.runs.load import dump
from penchant.runs.manifest import manifest, peak_memory
from penchant.runs.processes import anywhere, one_voice, require_one_start, stop_on_signals
from penchant.runs.schema import AutoBeta, RunFile
from penchant.runs.terminal import phase
from penchant.training import distributed
from penchant.training.adapters import save_lora
from penchant.training.checkpoint import Checkpointer, TrainState, latest
from penchant.training.checkpoint import load as load_checkpoint
from penchant.training.distributed import whole_tensors
from penchant.training.loop import Progress, Record, Watchers, fit
from penchant.training.self_check import self_check
from penchant.training.timesteps import Importance
from penchant.training.watchers import HeldOut, MetricsFile, ProgressBar, TensorBoard

logger = logging.getLogger(__name__)

COMPLETE: Final = "complete"
"""Name of the field of manifest.json that says whether all steps are done."""


def train(run: RunFile, folder: RunFolder, *, resume: bool, console: Console, where: str) -> None:
    """Train as the run file says; a run that is stopped leaves a checkpoint that `resume` goes on from.

    Args:
        run: The run file.
        folder: Where everything is written; created by the caller.
        resume: Go on from the newest checkpoint, if there is one.
        console: Where progress is shown.
        where: Name of the run file, for messages.

    Raises:
        PenchantError: Something the user gave is wrong, or training stopped itself; names the cause.
        Interrupted: Ctrl-C or SIGTERM; the checkpoint of the last step is written.
    """
    log.set_up()
    console = console if log.is_main_process() else Console(quiet=True)
    accelerator, progress = distributed.accelerator(), Progress()
    with one_voice(accelerator, folder, progress, resume=resume):
        _train(run, folder, accelerator, progress, resume=resume, console=console, where=where)


def _train(
    run: RunFile,
    folder: RunFolder,
    accelerator: Accelerator,
    progress: Progress,
    *,
    resume: bool,
    console: Console,
    where: str,
) -> None:
    started = datetime.now(UTC)
    earlier = folder.read_manifest() if resume else None
    torch.manual_seed(run.seed)
    require_possible(run, where=where)
    parts = assemble(
        _with_found_beta(run, earlier), where=where, phase=partial(phase, console), accelerator=accelerator
    )
    if earlier is not None:
        _refuse_other_content(run, folder, parts, earlier)
    main = accelerator.is_main_process
    state = TrainState(
        network=parts.bare,
        optimizer=parts.optimizer,
        schedule=parts.schedule,
        progress=progress,
        average=parts.average,
        health=parts.health,
        importance=_importance(parts),
        moving=parts.moving,
    )
    place = latest(folder.checkpoints) if resume else None
    if place is not None:
        load_checkpoint(state, place)
        console.print(f"going on from step {state.progress.step} of {run.training.steps}")
    require_one_start(accelerator, progress.step, parts.data.content_hash, folder)
    if place is None:
        _check(run, parts, console)
    if run.wants_auto_beta and earlier is None:
        console.print(f"beta: auto found {parts.method.objective.beta:g}", highlight=False)  # type: ignore[attr-defined]
    if main:
        if not resume:
            RunFolder.create(
                folder.path, overwrite=True
            )  # only now: everything the user gave has proved sound
        _write_heads(run, folder, parts, started, earlier)
    accelerator.wait_for_everyone()
    bar = ProgressBar(console, steps=run.training.steps, done=state.progress.step)
    with closing(parts.sources), stop_on_signals() as received, bar:
        fit(
            parts.method,
            parts.models,
            parts.network,
            parts.sources.train,
            parts.optimizer,
            parts.schedule,
            accelerator=accelerator,
            steps=run.training.steps,
            max_grad_norm=max_grad_norm(run),
            watchers=_watchers(run, folder, parts, state, bar),
            progress=progress,
            stop=lambda: anywhere(bool(received), accelerator),
        )
    if progress.step < run.training.steps:
        number = received[0] if received else signal.SIGTERM
        raise Interrupted(
            f"stopped by {number.name} after step {progress.step} of {run.training.steps}; its checkpoint is "
            "written. Go on with --resume.",
            signal_number=number,
        )
    _export(run, folder, parts)
    if main:
        _mark_complete(folder, parts, seconds=(datetime.now(UTC) - started).total_seconds())


def _watchers(
    run: RunFile, folder: RunFolder, parts: Assembled, state: TrainState, bar: ProgressBar
) -> Watchers:
    """Order matters: numbers are written before the checkpoint that covers them."""
    t, main, step = run.training, parts.accelerator.is_main_process, state.progress.step
    guards, after_step, at_end = [parts.health.guard], [], []
    writers: list[Callable[[Record], None]] = []
    if main:
        metrics, board = MetricsFile(folder.metrics, step=step), TensorBoard(folder.tensorboard, step=step)
        writers = [metrics.write, board.write]
        at_end.append(board.close)
    if parts.sources.broken is not None:
        guards.append(parts.sources.broken.guard)
        at_end.append(parts.sources.broken.report)
    followers = (parts.health, _importance(parts), parts.moving, parts.average)
    after_step += [*writers, *(follower.follow for follower in followers if follower is not None)]
    if (heldout := parts.sources.heldout) is not None:
        measured = HeldOut(
            parts.method,
            parts.models,
            heldout.examples,
            rows=heldout.rows,
            draws=heldout.draws,
            every=t.heldout_every,
            last=t.steps,
            batch_size=t.micro_batch_size or t.batch_size,
            accelerator=parts.accelerator,
            writers=writers,
        )
        after_step.append(measured.when_due)
    checkpointer = Checkpointer(
        state, folder.checkpoints, every=t.checkpoint_every, keep=t.keep_checkpoints, main=main
    )
    return Watchers(
        guards=guards,
        after_step=[*after_step, checkpointer.when_due, bar.show],
        at_end=[*at_end, checkpointer.at_end],
    )


def _importance(parts: Assembled) -> Importance | None:
    """The law of the timesteps, if it learns from the run."""
    law = parts.sources.law
    return law if isinstance(law, Importance) else None


def _check(run: RunFile, parts: Assembled, console: Console) -> None:
    """The start-up self-check, printed."""
    check = self_check(
        parts.method,
        parts.models,
        parts.network,
        parts.sources.train(0),
        parts.optimizer,
        accelerator=parts.accelerator,
        steps=run.training.steps,
        learning_rate=run.training.learning_rate,
        exact=run.training.reference.kind != "cached",
    )
    console.print("self-check: " + "\n            ".join(check.lines()), highlight=False)


def _write_heads(
    run: RunFile, folder: RunFolder, parts: Assembled, started: datetime, earlier: dict[str, Any] | None
) -> None:
    """run.yaml and manifest.json, before the first step."""
    write_text_atomically(folder.run_file, dump(run))
    known = manifest(
        parts.method,
        seed=run.seed,
        data_hash=parts.data.content_hash,
        model_hash=parts.model_hash,
        started=started if earlier is None else datetime.fromisoformat(earlier["started"]),
        num_resumed=0 if earlier is None else earlier["num_resumed"] + 1,
    )
    heldout = parts.sources.heldout
    known["data"] = {
        "name": run.data.path,
        "training rows": len(parts.data),
        "training groups": parts.sources.num_groups,
        "held-out groups": 0 if heldout is None else len(heldout.examples.ids),
    }
    known[COMPLETE] = False
    write_json_atomically(folder.manifest, known)


def _export(run: RunFile, folder: RunFolder, parts: Assembled) -> None:
    """Weights as plain diffusers loads them: `adapter/` or `pipeline/`, written beside and moved in place."""
    place = folder.adapter if run.training.mode == "lora" else folder.pipeline
    beside = place.with_name(f".partial-{place.name}")
    main = parts.accelerator.is_main_process
    with writing(place), parts.average.applied() if parts.average is not None else nullcontext():
        if main:
            shutil.rmtree(beside, ignore_errors=True)
        if run.training.mode == "lora":
            save_lora(parts.family, beside, main=main)
        else:
            _save_pipeline(parts, beside)
        if not main:
            return
        give_usual_rights(beside)
        shutil.rmtree(place, ignore_errors=True)
        beside.rename(place)
        folder.results.unlink(missing_ok=True)  # they were measured on other weights


def _save_pipeline(parts: Assembled, folder: Path) -> None:
    """The model's folder with the trained network in it; every process has to take part."""
    part, main = parts.family.network_part, parts.accelerator.is_main_process
    weights = whole_tensors(parts.bare.state_dict(), main=main)
    if not main:
        return
    families.copy_other_parts(parts.model_folder, folder, trained=part)
    network = AutoModel.from_pretrained(
        str(parts.model_folder), subfolder=part, use_safetensors=True, local_files_only=True
    )  # the class of a sharded network is not the one that diffusers loads
    network.load_state_dict(weights, assign=True)
    network.save_pretrained(str(folder / part), safe_serialization=True)


def _refuse_other_content(run: RunFile, folder: RunFolder, parts: Assembled, earlier: dict[str, Any]) -> None:
    """The same path may hold other data or another model by now; that would be another run."""
    now = {"data_hash": parts.data.content_hash, "model_hash": parts.model_hash}
    for name, path in (("data_hash", run.data.path), ("model_hash", run.model)):
        if earlier[name] != now[name]:
            raise RunFolderError(
                f"{folder.path}: the content of {path} has changed since the run was started. Put the old "
                "one back, or start anew with --overwrite or another output."
            )


def _with_found_beta(run: RunFile, earlier: dict[str, Any] | None) -> RunFile:
    """A resumed run keeps the beta that its probe has found."""
    if earlier is None or not run.wants_auto_beta:
        return run
    beta = earlier["method"]["objective"]["beta"]
    return run.model_copy(update={"objective": {**run.objective, "beta": beta}, "auto_beta": AutoBeta()})


def _mark_complete(folder: RunFolder, parts: Assembled, *, seconds: float) -> None:
    known = folder.read_manifest()
    assert known is not None
    known["finished"] = datetime.now(UTC).isoformat(timespec="seconds")
    known["training_s"] = seconds
    known["peak_memory"] = peak_memory()
    known["warnings"] = parts.health.sentences
    write_json_atomically(folder.manifest, {**known, COMPLETE: True})
