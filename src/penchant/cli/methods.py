"""`penchant methods`: the list, and the card of one method."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import RenderableType

    from penchant.runs.cards import MethodCard, SlotCard


def methods(
    name: Annotated[str | None, typer.Argument(help="Show the card of this method.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the methods, or show one with all its options, defaults and units."""
    from dataclasses import asdict

    from rich.console import Console

    from penchant.methods import catalog
    from penchant.runs.cards import card

    names = catalog.names() if name is None else [name]
    cards = [card(catalog.get(found, where="penchant methods")) for found in names]
    if as_json:
        content: Any = [asdict(found) for found in cards] if name is None else asdict(cards[0])
        print(json.dumps(content, indent=2, ensure_ascii=False))
    elif name is None:
        Console().print(_list(cards))
    else:
        console = Console(highlight=False, markup=False)
        for part in _card(cards[0]):
            console.print(part, soft_wrap=isinstance(part, str))


def _list(cards: "list[MethodCard]") -> "RenderableType":
    from rich import box
    from rich.table import Table

    table = Table("method", "data", "log-ratio", "objective", "source", box=box.SIMPLE, padding=(0, 1))
    for found in cards:
        ratio, objective = found.slots[0], found.slots[1]
        paper = found.source.partition(",")[0]
        table.add_row(found.name, found.shape, ratio.kind, objective.kind, paper)
    return table


def _card(found: "MethodCard") -> "list[RenderableType]":
    reference = "a frozen copy of the model" if found.needs_reference else "none"
    head = [
        found.summary,
        f"\n{found.notes}" if found.notes else "",
        f"\nsource     {found.source}",
        f"models     {found.domain}",
        f"data       {found.data}",
        f"reference  {reference}",
    ]
    parts: list[RenderableType] = ["\n".join(head)]
    for slot in found.slots:
        parts += ["", *_slot(slot)]
    if found.terms:
        parts += ["", f"terms that can be added: {', '.join(found.terms)}"]
    return [*parts, "", "to start from:", "", found.example]


def _slot(slot: "SlotCard") -> "list[RenderableType]":
    from rich import box
    from rich.table import Table

    lines = [f"{slot.factor}: {slot.kind}", f"  {slot.summary}"]
    lines += [f"  source: {slot.source}"] if slot.source else []
    lines += [f"  reads: {', '.join(slot.reads)}"] if slot.reads else []
    lines += [f"  provides: {', '.join(slot.provides)}"] if slot.provides else []
    lines += [f"  instead: {', '.join(slot.others)}"] if slot.others else []
    if not slot.options:
        return ["\n".join(lines)]
    table = Table("option", "default", "meaning, unit, range", box=box.SIMPLE, padding=(0, 1))
    for option in slot.options:
        table.add_row(option.name, _shown(option.default), option.meaning)
    return ["\n".join(lines), table]


def _shown(value: Any) -> str:
    return json.dumps(value) if isinstance(value, bool) or value is None else str(value)
