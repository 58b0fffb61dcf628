"""A run file and its `--set` options, read and checked."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, TypeVar, get_args

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from penchant import methods, rewards
from penchant.errors import ConfigError, unknown
from penchant.runs.build_schema import BuildFile
from penchant.runs.schema import RunFile
from penchant.runs.sentences import at, problem, refused, shown

SET: Final = "--set"
OVER: Final = "--over"

Schema = TypeVar("Schema", bound=BaseModel)


def load(path: Path, assignments: Sequence[str] = ()) -> RunFile:
    """Read a run file, set options on top, check everything that can be checked without loading a model.

    Args:
        path: YAML file.
        assignments: Options as `training.steps=10`; the value is YAML, so lists and mappings work too.

    Raises:
        ConfigError: One line that names file, place, problem and way out.
    """
    return check(read(path, assignments, RunFile), where=str(path), assigned=_keys(assignments))


def load_build(path: Path, assignments: Sequence[str] = ()) -> BuildFile:
    """The same for a build file; its rewards are checked when they are made."""
    raw = read(path, assignments, BuildFile)
    return validated(BuildFile, raw, where=str(path), assigned=_keys(assignments))


def alternatives(assignment: str) -> tuple[str, list[Any]]:
    """Option and values of `objective.beta=[10, 100]`.

    Raises:
        ConfigError: It is no option with a list of values that differ.
    """
    key, equals, text = assignment.partition("=")
    key, where = key.strip(), f"{OVER} {' '.join(assignment.split())}"
    values = OmegaConf.to_container(_parsed(f"value: {text}", where=where)) if equals and key else None
    values = values["value"] if isinstance(values, dict) and list(values) == ["value"] else None
    if not isinstance(values, list) or not values:
        raise ConfigError(
            f"{where}: is not an option and its values. Write it as {OVER} objective.beta='[10, 100]'."
        )
    if any(value in values[:number] for number, value in enumerate(values)):
        raise ConfigError(f"{where}: a value is there twice. Name each once.")
    return key, values


def read(path: Path, assignments: Sequence[str], schema: type[BaseModel]) -> Any:
    """Plain values of a YAML file with options set on top.

    Args:
        path: YAML file.
        assignments: Options as `training.steps=10`.
        schema: Names what an empty file lacks.

    Raises:
        ConfigError: The file cannot be read, is not YAML, or an option cannot be set.
    """
    config = _read(path, schema)
    for assignment in assignments:
        _assign(config, assignment)
    return OmegaConf.to_container(config, resolve=False)


def check(raw: Any, *, where: str, assigned: Sequence[str] = ()) -> RunFile:
    """A run file from plain values.

    Args:
        raw: Nested mappings and lists.
        where: File name, for messages.
        assigned: Keys that come from `--set`; an error there is said to stand there.

    Raises:
        ConfigError: An option is unknown, missing, of the wrong type or out of range.
    """
    run = validated(RunFile, raw, where=where, assigned=assigned)
    _refuse_unknown_names(run, where)
    return run


def validated(schema: type[Schema], raw: Any, *, where: str, assigned: Sequence[str] = ()) -> Schema:
    """Plain values as a schema has them; see `check`."""
    _refuse_interpolation(raw, where, [])
    try:
        return schema.model_validate(raw)
    except ValidationError as error:
        # A misspelt option is also a missing one; the misspelling says more.
        first = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
        raise _config_error(first, where, assigned, schema) from None


def dump(run: RunFile) -> str:
    """The run file with every option written out, as YAML that `load` reads."""
    return OmegaConf.to_yaml(OmegaConf.create(run.model_dump(mode="json")))


def _keys(assignments: Sequence[str]) -> list[str]:
    return [assignment.partition("=")[0].strip() for assignment in assignments]


def _read(path: Path, schema: type[BaseModel]) -> DictConfig:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file. Give the path of a run file (YAML).") from None
    except IsADirectoryError:
        raise ConfigError(f"{path}: is a folder. Give the path of a run file (YAML) in it.") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is not text in UTF-8. Give the path of a run file (YAML).") from None
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read ({error.strerror}). Check the path and its rights."
        ) from None
    if not text.strip():
        raise ConfigError(f"{path}: is empty. Needed: {', '.join(_required(schema))}.")
    config = _parsed(text, where=str(path))
    if not isinstance(config, DictConfig):
        kind = "a list" if OmegaConf.is_list(config) else "a single value"
        raise ConfigError(
            f"{path}: must be a mapping of options, got {kind}. Write lines such as `model: emoji`."
        )
    return config


def _parsed(text: str, *, where: str) -> Any:
    try:
        return OmegaConf.create(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = "" if mark is None or where.startswith(SET) else f"line {mark.line + 1}: "
        reason = (error.problem or "cannot be read").strip()
        if reason.startswith("found duplicate key"):
            key = reason.removeprefix("found duplicate key").strip()
            raise ConfigError(f"{where}: {line}option {key!r} is set twice. Remove one.") from None
        raise ConfigError(
            f"{where}: {line}not valid YAML: {reason}. Check indentation, quotes and brackets."
        ) from None
    except yaml.YAMLError as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"{where}: not valid YAML: {reason}. Save the file as plain text.") from None
    except OmegaConfBaseException:
        raise ConfigError(f"{where}: values with '${{' are not supported. Write the value itself.") from None
    except (ValueError, KeyError, AttributeError):
        raise ConfigError(
            f"{where}: a tag such as `!!int` stands before a value that it does not fit. Remove the tag."
        ) from None
    except AssertionError:  # a lone number or truth value
        return None


def _assign(config: DictConfig, assignment: str) -> None:
    key, equals, text = assignment.partition("=")
    key, where = key.strip(), f"{SET} {' '.join(assignment.split())}"
    if not equals or not all(key.split(".")):
        raise ConfigError(f"{where}: is not an option and its value. Write it as {SET} training.steps=100.")
    parsed = _parsed(f"value: {text}" if text.strip() else "value: null", where=where)
    if not isinstance(parsed, DictConfig) or list(parsed) != ["value"]:
        raise ConfigError(f"{where}: not valid YAML. Put the value in quotes.")
    try:
        value = OmegaConf.to_container(parsed, resolve=False)
        assert isinstance(value, dict)
        OmegaConf.update(config, key, value["value"], merge=True, force_add=True)
    except (OmegaConfBaseException, IndexError, ValueError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"{where}: cannot be set ({reason}). Check the place in the run file.") from None


def _refuse_interpolation(value: Any, where: str, place: list[str]) -> None:
    if isinstance(value, dict):
        for name, item in value.items():
            _refuse_interpolation(item, where, [*place, str(name)])
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _refuse_interpolation(item, where, [*place, str(index)])
    elif isinstance(value, str) and "${" in value:
        raise ConfigError(
            f"{at(where, place)}: values with '${{' are not supported, got {shown(value)}. "
            "Write the value itself."
        )


def _refuse_unknown_names(run: RunFile, where: str) -> None:
    _in_list("method", run.method, methods.catalog.names(), f"{where}: method")
    named = {f"evaluation.scores.{number}": score for number, score in enumerate(run.evaluation.scores)}
    if run.evaluation.metric is not None:
        named["evaluation.metric"] = run.evaluation.metric
    if run.online is not None:
        named["online.reward"] = run.online.reward
    for place, reward in named.items():
        kind = reward if isinstance(reward, str) else reward["kind"]
        _in_list("reward", kind, rewards.catalog.names(), f"{where}: {place}")


def _in_list(kind: str, name: str, known: list[str], where: str) -> None:
    if name not in known:
        raise unknown(kind, name, known, where)


def _config_error(
    error: ErrorDetails, where: str, assigned: Sequence[str], schema: type[BaseModel]
) -> ConfigError:
    place = [str(part) for part in error["loc"]]
    dotted = ".".join(place)
    if any(dotted == key or dotted.startswith(f"{key}.") for key in assigned):
        where = SET
    match error["type"]:
        case "extra_forbidden":
            known = _section(place[:-1], schema).model_fields
            return unknown("option", place[-1], known, at(where, place[:-1]))
        case "missing":
            # A section is described by its own docstring, an option in the section it belongs to.
            fields = _section(place[:-1], schema).model_fields
            if place[-1] not in fields:
                given = shown(error["input"])
                return ConfigError(f"{at(where, place[:-1])}: must have more values, got {given}. Add them.")
            field = fields[place[-1]]
            meaning = field.description or _section(place, schema).__doc__
            return ConfigError(f"{at(where, place[:-1])}: option {place[-1]!r} is missing. {meaning}")
        case "value_error":
            option, reason = refused(error.get("ctx", {})["error"], _section(place, schema).model_fields)
            return ConfigError(f"{at(where, [*place, *option])}: {reason}")
        case _:
            return ConfigError(f"{at(where, place)}: {problem(error)}")


def _section(place: Sequence[str], schema: type[BaseModel]) -> type[BaseModel]:
    """The section at a place of the file; for an option, the section it belongs to."""
    section = schema
    for name in place:
        field = section.model_fields.get(name)
        if field is None:
            break
        for kind in (field.annotation, *get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                section = kind
    return section


def _required(section: type[BaseModel]) -> list[str]:
    return [name for name, field in section.model_fields.items() if field.is_required()]
