"""Write docs/options.md, the table of every option of a run file, from the schema.

With --check, only say whether the file is up to date (exit code 1 if it is not).
"""

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from penchant.runs.schema import RunFile

PAGE = Path(__file__).with_name("options.md")
HEAD = """\
# All options of a run file

`make options` writes this page from the schema in `src/penchant/runs/schema.py`; do not edit it by
hand. Options without a default have to be given. The options of `ratio`, `objective`, `weight` and
`terms` belong to the method: `penchant methods NAME` shows them.
"""
RANGES = {"minimum": ">= ", "exclusiveMinimum": "> ", "maximum": "<= ", "exclusiveMaximum": "< "}
KINDS = {
    "integer": "whole number",
    "number": "number",
    "string": "text",
    "boolean": "true or false",
    "object": "mapping",
    "array": "list",
    "null": "null",
}


def page() -> str:
    """The whole page."""
    schema = RunFile.model_json_schema()
    return "\n".join([HEAD, *_section(schema, schema, "")]).rstrip() + "\n"


def _section(schema: Mapping[str, Any], root: Mapping[str, Any], name: str) -> Iterator[str]:
    """The table of one section, then those of the sections in it."""
    yield f"## {name or 'Top level'}\n"
    if name:
        yield f"{schema['description']}\n"
    yield "| option | kind and range | default | meaning |"
    yield "|---|---|---|---|"
    inner: list[tuple[str, Mapping[str, Any]]] = []
    for option, value in schema["properties"].items():
        path = f"{name}.{option}" if name else option
        section = _referenced(value, root)
        if section is not None:
            inner.append((path, section))
        kind = "section, see below" if section is not None else _kind(value)
        meaning = value.get("description") or (section or {}).get("description", "")
        required = option in schema.get("required", ())
        yield f"| `{option}` | {kind} | {_default(value, section, required)} | {_cell(meaning)} |"
    yield ""
    for path, section in inner:
        yield from _section(section, root, path)


def _referenced(value: Mapping[str, Any], root: Mapping[str, Any]) -> Mapping[str, Any] | None:
    for choice in (value, *value.get("anyOf", ())):
        if reference := choice.get("$ref"):
            return root["$defs"][reference.rpartition("/")[2]]
    return None


def _kind(value: Mapping[str, Any]) -> str:
    if choices := value.get("anyOf"):
        return " or ".join(_kind(choice) for choice in choices)
    if choices := value.get("enum"):
        return " or ".join(f"`{choice}`" for choice in choices)
    if items := value.get("prefixItems"):
        return f"list of {len(items)}: {_kind(items[0])}"
    kind = KINDS[value["type"]]
    if items := value.get("items"):
        kind = f"list of {_plural(items)}"
    limits = [f"{sign}{value[key]:g}" for key, sign in RANGES.items() if key in value and value[key] < 2**53]
    return " ".join([kind, ", ".join(limits)]).strip()


def _plural(items: Mapping[str, Any]) -> str:
    if choices := items.get("anyOf"):
        return " or ".join(_plural(choice) for choice in choices)
    return "mappings" if items["type"] == "object" else "texts"


def _default(value: Mapping[str, Any], section: Mapping[str, Any] | None, required: bool) -> str:
    if required:
        return "required"
    if section is not None:
        return "null" if "default" in value else ""
    if "default" in value:
        return f"`{json.dumps(value['default'], ensure_ascii=False)}`"
    return "empty" if value["type"] == "object" else "see meaning"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def main() -> int:
    """Write the page, or check it."""
    text = page()
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(text, encoding="utf-8")
        return 0
    if PAGE.is_file() and PAGE.read_text(encoding="utf-8") == text:
        return 0
    print(f"{PAGE.name} is not what the schema says. Run `make options`.", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
