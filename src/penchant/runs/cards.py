"""What there is to know of a method, read from its composition and the docstrings of its slots."""

import inspect
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Final, final

from penchant import methods
from penchant.protocols import Domain, Evidence
from penchant.runs.override import FACTORS, kind_of, known_kinds
from penchant.shapes import Shape
from penchant.slots.compose import Method

_SECTION: Final = re.compile(r"^(\w+):\n((?:[ ]{4}.*\n|\n)+)", re.MULTILINE)
_AROUND: Final = re.compile(r"\baround `(\w+)`")
_ENTRY: Final = re.compile(r"^(\w+): ((?:.|\n(?!\w+: ))+)", re.MULTILINE)
_SHAPES: Final[Mapping[Shape, str]] = {
    Shape.PAIR: "pairs: a prompt, the preferred candidate, the other",
    Shape.RANKED: "ranked lists: a prompt and K candidates with scores",
    Shape.UNARY: "single candidates: a prompt, a candidate, liked or not",
}


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class OptionCard:
    """One option of a slot; `default` is the method's value."""

    name: str
    default: Any
    meaning: str


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class SlotCard:
    """One slot of a method.

    Attributes:
        factor: `ratio`, `objective`, `weight` or `term`: the section of the run file.
        kind: Its name there.
        summary: First sentence of its docstring.
        source: Where it is published; empty for plain constructions.
        reads: What it reads of the ratio's estimate.
        provides: What a ratio gives.
        options: All options.
        others: Kinds that fit the method and that a run file can take instead.
    """

    factor: str
    kind: str
    summary: str
    source: str
    reads: tuple[str, ...]
    provides: tuple[str, ...]
    options: tuple[OptionCard, ...]
    others: tuple[str, ...]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class MethodCard:
    """One method.

    Attributes:
        name: Name in a run file.
        summary: First sentence of its module.
        notes: The rest of it: units, deviations.
        source: Authors, year, id, equation.
        domain: `diffusion` or `language`.
        shape: Data shape.
        data: What that means.
        needs_reference: A second, frozen model is compared with.
        slots: Its slots.
        terms: Kinds of terms that fit it and that a run file can add.
        example: Five lines to start from: a run file, or Python where there is no run file for it yet.
    """

    name: str
    summary: str
    notes: str
    source: str
    domain: str
    shape: str
    data: str
    needs_reference: bool
    slots: tuple[SlotCard, ...]
    terms: tuple[str, ...]
    example: str


def card(method: Method) -> MethodCard:
    """The card of a method."""
    module = sys.modules.get(f"{methods.__name__}.{method.name.replace('-', '_')}")
    summary, _, notes = inspect.cleandoc((module and module.__doc__) or "").partition("\n\n")
    slots = [("ratio", method.ratio), ("objective", method.objective), ("weight", method.weight)]
    return MethodCard(
        name=method.name,
        summary=summary.replace("\n", " "),
        notes=notes.replace("\n", " "),
        source=method.source,
        domain=method.ratio.domain.value,
        shape=method.shape.value,
        data=_SHAPES[method.shape],
        needs_reference=method.needs_reference,
        slots=tuple(
            slot_card(method, factor, slot)
            for factor, slot in [*slots, *(("term", term) for term in method.terms)]
        ),
        terms=tuple(fitting_kinds(method, "term")),
        example=_example(method),
    )


def slot_card(method: Method, factor: str, slot: Any) -> SlotCard:
    """The card of one slot of a method."""
    assert factor in FACTORS
    text = _documentation(type(slot))
    kind = kind_of(type(slot))
    return SlotCard(
        factor=factor,
        kind=kind,
        summary=" ".join(text.split("\n\n")[0].split()),
        source=" ".join(_sections(text).get("Source", "").split()),
        reads=_words(getattr(slot, "reads", frozenset())),
        provides=_words(getattr(slot, "provides", frozenset())),
        options=tuple(_options(slot)),
        others=tuple(name for name in fitting_kinds(method, factor) if name != kind),
    )


def fitting_kinds(method: Method, factor: str) -> list[str]:
    """Kinds of a factor that fit the other slots of a method; experimental ones are left out."""
    readers = (method.objective, method.weight, *method.terms)
    wanted = frozenset().union(*(slot.reads for slot in readers))

    def fits(found: Any) -> bool:
        if "experimental" in vars(found):
            return False
        if factor == "ratio":
            return found.domain is method.ratio.domain and wanted <= found.provides
        shape_fits = factor != "objective" or found.shape is method.shape
        return shape_fits and found.reads <= method.ratio.provides

    return sorted(kind for kind, found in known_kinds(method, factor).items() if fits(found))


def _options(slot: Any, prefix: str = "") -> list[OptionCard]:
    sections = _sections(_documentation(type(slot)))
    meanings = _entries(sections.get("Attributes", "")) or _entries(sections.get("Args", ""))
    cards: list[OptionCard] = []
    for field in fields(slot):
        value, name = getattr(slot, field.name), f"{prefix}{field.name}"
        if is_dataclass(value):
            cards += _options(value, prefix=f"{name}.")
        else:
            cards.append(OptionCard(name=name, default=value, meaning=meanings[field.name]))
    return cards


def _documentation(slot: type) -> str:
    """The docstring of a slot; of the function that it stands around, if it says so."""
    text = inspect.cleandoc(slot.__doc__ or "")
    if around := _AROUND.search(text):
        text = inspect.cleandoc(getattr(sys.modules[slot.__module__], around[1]).__doc__ or "")
    return text


def _sections(text: str) -> dict[str, str]:
    """The Google-style sections of a docstring, by name, without their indentation."""
    found = _SECTION.findall(f"{text}\n")
    return {name: inspect.cleandoc(f"\n{body}") for name, body in found}


def _entries(body: str) -> dict[str, str]:
    return {name: " ".join(meaning.split()) for name, meaning in _ENTRY.findall(body)}


def _words(evidence: frozenset[Evidence]) -> tuple[str, ...]:
    return tuple(sorted(found.value for found in evidence))


def _example(method: Method) -> str:
    if method.ratio.domain is Domain.LANGUAGE:
        return (
            "from penchant.families.causal_lm import CausalLanguageModel as Model\n"
            "from penchant.methods import catalog\n"
            "from penchant.protocols import Models, TokenBatch\n"
            "from penchant.randomness import Randomness\n"
            "from penchant.slots.compose import step\n\n"
            "# policy, frozen: of AutoModelForCausalLM; tokens, attended and completion: B x 2 x L, the\n"
            "# preferred text first; attended is True on text, completion on the answer alone\n"
            "models = Models(policy=Model(network=policy), reference=Model(network=frozen))\n"
            "batch = TokenBatch(ids=ids, tokens=tokens, attended=attended, completion=completion)\n"
            f'loss = step(catalog.get("{method.name}"), models, batch, Randomness(run=0)).loss\n'
        )
    online = "online: {reward: style}\n" if kind_of(type(method.ratio)) == "stepwise" else ""
    return (
        "model: emoji\n"
        "data: {path: emoji-pairs}\n"
        f"method: {method.name}\n{online}"
        "training: {steps: 200}\n"
        f"output: runs/{method.name}\n"
    )
