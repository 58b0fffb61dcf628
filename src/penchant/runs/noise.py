"""Section `noise` of a run file: the noise process that training sees, and how timesteps are drawn."""

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from penchant.diffusion.flow import RectifiedFlow
from penchant.diffusion.schedule import VariancePreserving, zero_terminal_snr
from penchant.errors import ConfigError
from penchant.protocols import NoiseProcess
from penchant.runs.schema import Noise
from penchant.training.timesteps import Antithetic, Importance, QuantileLaw, Stratified

_LAWS: Final[dict[str, Callable[[NoiseProcess], QuantileLaw]]] = {
    "stratified": lambda process: Stratified(),
    "antithetic": lambda process: Antithetic(),
    "importance": lambda process: Importance(process),
}


def process_of(process: NoiseProcess, noise: Noise, *, where: str) -> NoiseProcess:
    """The model's noise process with what the run file changes of it.

    Raises:
        ConfigError: An option is not one of this kind of process, or a timestep is none of the model's.
    """
    if isinstance(process, RectifiedFlow):
        _refuse(noise, ("timesteps", "zero_terminal_snr"), "a flow model, which takes `shift`", where)
        return process if noise.shift is None else replace(process, shift=noise.shift)
    assert isinstance(process, VariancePreserving)
    _refuse(noise, ("shift",), "not a flow model; it takes `timesteps` and `zero_terminal_snr`", where)
    if noise.timesteps is not None:
        if max(noise.timesteps) >= process.num_timesteps:
            raise ConfigError(
                f"{where}: noise.timesteps: must be < {process.num_timesteps}, the model's timesteps, got "
                f"{max(noise.timesteps)}."
            )
        process = replace(process, trained=tuple(sorted(noise.timesteps)))
    if noise.zero_terminal_snr:
        process = replace(process, alphas_cumprod=zero_terminal_snr(process.alphas_cumprod))
    return process


def law_of(process: NoiseProcess, noise: Noise) -> QuantileLaw | None:
    """How the timesteps of a step are drawn together; None if each is drawn for itself."""
    return None if noise.draw == "independent" else _LAWS[noise.draw](process)


def _refuse(noise: Noise, names: tuple[str, ...], kind: str, where: str) -> None:
    for name in noise.changed(*names):
        raise ConfigError(f"{where}: noise.{name}: the model is {kind}. Remove noise.{name}.")
