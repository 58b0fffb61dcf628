"""Options of a run file, set into the slots of a method."""

import inspect
import pkgutil
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any, Final, TypeVar, final, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from penchant import methods
from penchant.errors import CompositionError, ConfigError, unknown
from penchant.runs.schema import RunFile
from penchant.runs.sentences import at, problem, refused
from penchant.slots import objectives, ratios, terms, weights
from penchant.slots.compose import Method

FACTORS: Final[Mapping[str, ModuleType]] = {
    "ratio": ratios,
    "objective": objectives,
    "weight": weights,
    "term": terms,
}
"""The factors of the equation, and the folder of each."""

PROBE_BETA: Final = 1.0
"""Stands for `beta: auto` until a value is found; the margins that the probe measures do not depend on it."""

Slot = TypeVar("Slot")


def override(method: Method, run: RunFile, *, where: str) -> Method:
    """The method with the options of a run file.

    Options that are not named keep the method's value. Another `kind` starts from its own defaults; nothing
    is carried over.

    Args:
        method: A composition from the catalogue.
        run: The run file.
        where: Name of the run file, for messages.

    Raises:
        ConfigError: An option or kind is unknown, of the wrong type or out of range, or a slot is
            experimental and the run file does not allow that.
        CompositionError: The slots do not fit each other.
    """
    objective = dict(run.objective)
    if run.wants_auto_beta:
        objective["beta"] = PROBE_BETA
    kinds = _Kinds(method, where)
    chosen: dict[str, Any] = {
        "ratio": kinds.set("ratio", method.ratio, run.ratio),
        "objective": kinds.set("objective", method.objective, objective),
        "weight": kinds.set("weight", method.weight, run.weight),
        "terms": method.terms,
    }
    if run.terms is not None:
        chosen["terms"] = tuple(kinds.term(index, options) for index, options in enumerate(run.terms))
    if not run.experimental:
        _refuse_experimental(chosen, where)
    try:
        return replace(method, **chosen)
    except CompositionError as error:
        raise CompositionError(f"{where}: {error}") from None


def set_options(slot: Slot, options: Mapping[str, Any], *, where: str, place: list[str]) -> Slot:
    """A copy of a slot with some of its options set.

    Args:
        slot: A frozen dataclass; its fields are its options.
        options: Value by name; a mapping for a field that is itself a dataclass.
        where: File, for messages.
        place: Place of the options in the file.
    """
    assert is_dataclass(slot) and not isinstance(slot, type)
    checked = _checked(type(slot), options, where=where, place=place, now=slot)
    return _built(lambda: replace(slot, **checked), type(slot), where=where, place=place)


def new_slot(
    found: type,
    kind: str,
    options: Mapping[str, Any],
    *,
    where: str,
    place: list[str],
    ready: Mapping[str, Any] | None = None,
) -> Any:
    """A slot of a kind, from its own defaults.

    Args:
        found: The frozen dataclass.
        kind: Its name in the file, for messages.
        options: Value by name, as in the file.
        where: File, for messages.
        place: Place of the options in the file.
        ready: Options that are objects already.
    """
    given = _checked(found, options, where=where, place=place, now=None) | dict(ready or {})
    for name, parameter in inspect.signature(found).parameters.items():
        if parameter.default is parameter.empty and name not in given:
            raise ConfigError(
                f"{at(where, place)}: {found.__name__} needs the option {name!r}. "
                f"Write `{name}: ...` beside `kind: {kind}`."
            )
    return _built(lambda: found(**given), found, where=where, place=place)


def slot_kinds(factor: str, modules: list[ModuleType]) -> dict[str, type]:
    """The slots of a factor in some modules, by kind: `WinnerKept` is `winner-kept`."""
    return {
        kind_of(found): found
        for module in modules
        for found in vars(module).values()
        if isinstance(found, type) and found.__module__ == module.__name__ and factor_of(found) == factor
    }


def kind_of(slot: type) -> str:
    """Name of a slot in a run file: its class name in kebab case."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", slot.__name__).lower()


def factor_of(found: type) -> str | None:
    """Which factor of the equation a class is, by what it declares; None if it is no slot."""
    declared = vars(found)
    if not is_dataclass(found) or "__call__" not in declared:
        return None
    if "provides" in declared:
        return "ratio"
    if "couples_batch" in declared:
        return "objective"
    if "reads" not in declared:
        return None
    return "term" if "models" in inspect.signature(declared["__call__"]).parameters else "weight"


def known_kinds(method: Method, factor: str) -> dict[str, type]:
    """The slots that a run file can take for a factor: those of its folder and of the method's module."""
    folder = FACTORS[factor]
    modules = [
        import_module(f"{folder.__name__}.{found.name}") for found in pkgutil.iter_modules(folder.__path__)
    ]
    names = {type(slot).__module__ for slot in (method.ratio, method.objective, method.weight, *method.terms)}
    own = f"{methods.__name__}.{method.name.replace('-', '_')}"
    if find_spec(own) is not None:
        names.add(own)
    modules += [import_module(name) for name in sorted(names)]
    return slot_kinds(factor, modules)


@final
@dataclass(frozen=True, slots=True)
class _Kinds:
    """Slots of one method as a run file names them."""

    method: Method
    where: str

    def set(self, factor: str, slot: Any, options: Mapping[str, Any]) -> Any:
        """The slot with options, or another kind."""
        rest = {name: value for name, value in options.items() if name != "kind"}
        if "kind" not in options or options["kind"] == kind_of(type(slot)):
            return set_options(slot, rest, where=self.where, place=[factor])
        return self._new(factor, options["kind"], rest, [factor])

    def term(self, index: int, options: Mapping[str, Any]) -> Any:
        """A term of the list."""
        place = ["terms", str(index)]
        if "kind" not in options:
            known = ", ".join(sorted(known_kinds(self.method, "term")))
            raise ConfigError(f"{at(self.where, place)}: option 'kind' is missing. Known: {known}.")
        rest = {name: value for name, value in options.items() if name != "kind"}
        return self._new("term", options["kind"], rest, place)

    def _new(self, factor: str, kind: object, options: Mapping[str, Any], place: list[str]) -> Any:
        kinds = known_kinds(self.method, factor)
        if not isinstance(kind, str) or kind not in kinds:
            raise unknown(f"kind of {factor}", str(kind), kinds, at(self.where, place))
        return new_slot(kinds[kind], kind, options, where=self.where, place=place)


def _checked(
    slot: type, options: Mapping[str, Any], *, where: str, place: list[str], now: Any | None
) -> dict[str, Any]:
    """Values of the right type, by name; nested dataclasses are built."""
    names = [field.name for field in fields(slot)]
    hints = get_type_hints(slot)
    checked: dict[str, Any] = {}
    for name, value in options.items():
        if name not in names:
            raise unknown(f"option of {slot.__name__}", name, names, at(where, place))
        if is_dataclass(hints[name]) and isinstance(value, Mapping):
            inner = hints[name]() if now is None else getattr(now, name)
            checked[name] = set_options(inner, value, where=where, place=[*place, name])
            continue
        try:
            adapter = TypeAdapter(hints[name], config=_strict(hints[name]))
            checked[name] = adapter.validate_python(value)
        except ValidationError as error:
            raise ConfigError(f"{at(where, [*place, name])}: {problem(error.errors()[0])}") from None
    return checked


def _strict(hint: Any) -> ConfigDict | None:
    """Strict types, so that `true` is no number; a dataclass brings its own settings."""
    return None if is_dataclass(hint) else ConfigDict(strict=True, allow_inf_nan=False)


def _built(build: Callable[[], Slot], slot: type, *, where: str, place: list[str]) -> Slot:
    try:
        return build()
    except ValueError as error:
        option, reason = refused(error, [field.name for field in fields(slot)])
        raise ConfigError(f"{at(where, [*place, *option])}: {reason}") from None


def _refuse_experimental(chosen: Mapping[str, Any], where: str) -> None:
    slots = {"terms": chosen["terms"]} | {name: (slot,) for name, slot in chosen.items() if name != "terms"}
    for factor, found in slots.items():
        for slot in found:
            if reason := vars(type(slot)).get("experimental"):
                raise ConfigError(
                    f"{where}: {factor}: {kind_of(type(slot))} is experimental: {reason}. "
                    "Write `experimental: true` to take it nevertheless."
                )
