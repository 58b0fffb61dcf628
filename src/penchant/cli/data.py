"""`penchant data`: check, build, relabel, split and convert preference data."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from penchant.cli.options import Assignments
from penchant.data import split as splitting
from penchant.data import store
from penchant.data.build import BuildRule
from penchant.data.build import build as build_examples
from penchant.data.check import check as check_dataset
from penchant.data.columns import Columns
from penchant.data.report import Report, Severity
from penchant.data.tokens import load_tokenizer
from penchant.errors import ConfigError
from penchant.families import SHIPPED, quiet

if TYPE_CHECKING:
    from penchant.builders.feedback import Tally

app = typer.Typer(
    help="Check, build, relabel, split and convert preference data.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

File = Annotated[
    str,
    typer.Argument(help="As data.path of a run file: rows, a folder of such files or of images, or a name."),
]
Out = Annotated[Path, typer.Argument(help="Parquet file to write.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the file if it exists.")]
Column = Annotated[
    list[str] | None,
    typer.Option(
        "--column",
        metavar="MEANING=COLUMN",
        help="What a column means, as `data.columns` of a run file: --column prompt=text; repeated, --column "
        "images=left --column images=right.",
    ),
]
_COLOURS = {Severity.ERROR: "red", Severity.WARNING: "yellow", Severity.NOTE: "cyan"}


@app.command()
def check(
    file: File,
    column: Column = None,
    split: Annotated[str | None, typer.Option(help="Only the rows of this split.")] = None,
    size: Annotated[int | None, typer.Option(min=1, help="Side in pixels you will train at.")] = None,
    model: Annotated[
        str | None, typer.Option(help="A model that ships, or its folder; finds prompts that it cuts.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Rows shown per kind of problem.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole report as JSON.")] = False,
) -> None:
    """Report on every row: images, labels, prompts, duplicates, leaks. Exit code 1 if there are errors."""
    tokenizer = None
    if model is not None:
        quiet()  # it would warn of the very prompts that the report lists
        tokenizer = load_tokenizer(SHIPPED.get(model, Path(model)))
    dataset = store.read(_place(file), split=split, columns=_columns(column), keep_broken=True)
    report = check_dataset(dataset, tokenizer=tokenizer, size=size)
    if as_json:
        typer.echo(json.dumps(report.to_dict()))
    else:
        _print_counts(report)
        _print_problems(report, limit)
    if report.num_of(Severity.ERROR):
        raise typer.Exit(1)


@app.command()
def build(
    source: Annotated[
        Path, typer.Argument(metavar="BUILD.yaml | FOLDER", help="A build file, or a folder of images.")
    ],
    table: Annotated[
        Path | None, typer.Argument(metavar="[TABLE]", help="CSV or JSONL with path, prompt and score.")
    ] = None,
    out: Annotated[Path | None, typer.Argument(metavar="[OUT]", help="Parquet file to write.")] = None,
    rule: Annotated[
        BuildRule | None, typer.Option(help="Which comparisons become pairs; best-vs-worst if not given.")
    ] = None,
    min_gap: Annotated[
        float | None, typer.Option(help="Smallest difference of scores that makes a pair.")
    ] = None,
    min_size: Annotated[
        int | None, typer.Option(min=1, help="Shorter side in pixels that an image has at least.")
    ] = None,
    assignments: Assignments = None,
    overwrite: Overwrite = False,
) -> None:
    """Make pairs or lists: by a build file from a model and rewards, or from images and a table of scores."""
    if source.suffix in (".yaml", ".yml"):
        if (table, out, rule, min_gap, min_size) != (None,) * 5:
            raise ConfigError(
                f"{source}: a build file names its output, rule and filters itself. Give the file alone, and "
                "--set."
            )
        _build_by_file(source, assignments or [], overwrite=overwrite)
        return
    if table is None or out is None:
        raise ConfigError("penchant data build: needs FOLDER TABLE OUT, or BUILD.yaml.")
    if assignments:
        raise ConfigError(
            "--set: only a build file has options to set. Use --rule, --min-gap and --min-size."
        )
    built = build_examples(
        source, table, rule or BuildRule.BEST_VS_WORST, min_gap=min_gap or 0.0, min_size=min_size
    )
    num_rows = store.write_parquet(built.examples, out, overwrite=overwrite)
    _say(
        f"{out}: {num_rows} rows from {built.num_prompts} prompts. Left out: {built.num_ties} comparisons "
        f"tied or closer than the gap, {built.num_small} images smaller than min-size, {built.num_single} "
        "prompts with fewer than two images left."
    )


def _build_by_file(path: Path, assignments: list[str], *, overwrite: bool) -> None:
    from penchant.runs.build import build as run_build  # late: rewards and diffusers are heavy
    from penchant.runs.load import load_build

    run = load_build(path, assignments)
    out, num_rows, tally = run_build(run, where=str(path), console=Console(), overwrite=overwrite)
    _say(
        f"{out}: {num_rows} rows from {tally.num_prompts} prompts and {tally.num_images} images. Left out: "
        f"{tally.num_ties} comparisons tied or closer than the gap, {tally.num_low} images below min_score, "
        f"{tally.num_duplicates} near duplicates, {tally.num_single} prompts with fewer than two images left."
    )
    _print_scales(tally)


@app.command()
def relabel(
    file: File,
    out: Out,
    reward: Annotated[
        list[str],
        typer.Option(help="A name, or a mapping in YAML; the first decides. May be repeated."),
    ],
    column: Column = None,
    split: Annotated[str | None, typer.Option(help="Only the rows of this split.")] = None,
    min_gap: Annotated[
        float, typer.Option(help="Smallest difference between best and worst that keeps a row.")
    ] = 0.0,
    score_cache: Annotated[
        Path | None, typer.Option(help="File of scores; beside the output if not given.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Write the rows with the preference of a reward in place of their own."""
    from penchant.runs.build import relabel as run_relabel  # late: rewards are heavy

    num_rows, tally = run_relabel(
        _place(file),
        out,
        reward,
        console=Console(),
        split=split,
        columns=_columns(column),
        min_gap=min_gap,
        score_cache=score_cache,
        overwrite=overwrite,
    )
    agreement = f"{tally.num_agreed / tally.num_decided:.0%}" if tally.num_decided else "none to compare"
    _say(
        f"{out}: {num_rows} of {tally.num_prompts} rows; {tally.num_ties} tied or closer than the gap. "
        f"Agreement with the earlier preference: {agreement} of {tally.num_decided} comparisons."
    )
    _print_scales(tally)


def _print_scales(tally: "Tally") -> None:
    for name in tally.scores:
        mean, std = tally.scale(name)
        _say(f"{name}: mean {mean:.6g}, std {std:.6g}")


@app.command()
def split(
    file: File,
    out: Out,
    column: Column = None,
    shares: Annotated[
        str, typer.Option(help="Share of the prompts by split.")
    ] = "train=0.8,validation=0.1,test=0.1",
    key: Annotated[str, typer.Option(help="Another key makes another split.")] = "penchant",
    overwrite: Overwrite = False,
) -> None:
    """Write the rows with a split each; all rows of one prompt go to the same split."""
    fractions = splitting.shares(shares)
    rows = store.read(_place(file), columns=_columns(column))
    store.write_parquet(splitting.assign(rows, fractions, key=key), out, overwrite=overwrite)
    written = [header.split for header in store.read(out).headers]
    _say(f"{out}: " + ", ".join(f"{name} {written.count(name)} rows" for name in fractions) + ".")


@app.command()
def convert(
    file: File,
    out: Out,
    column: Column = None,
    split: Annotated[str | None, typer.Option(help="Only the rows of this split.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Write any table or known layout as one parquet file of the library's own layout."""
    num_rows = store.write_parquet(
        store.read(_place(file), split=split, columns=_columns(column)), out, overwrite=overwrite
    )
    _say(f"{out}: {num_rows} rows.")


def _place(name: str) -> Path:
    if Path(name).exists():
        return Path(name)
    from penchant.runs.data import located  # late: what run files may say is slow to import

    return located(name, where="FILE")


def _columns(typed: list[str] | None) -> Columns | None:
    if typed is None:
        return None
    from penchant.runs import columns  # late: what run files may say is slow to import

    return columns.typed(typed)


def _print_counts(report: Report) -> None:
    sizes = [f"{size}: {count}" for size, count in report.sizes.items()]
    more = f", and {len(sizes) - 5} more" if len(sizes) > 5 else ""
    facts = [
        ("file", report.path),
        ("rows", f"{report.num_rows}, with {report.num_pairs} pairs"),
        ("prompts", f"{report.num_prompts} different"),
        ("images", f"{report.num_images} different"),
        ("preferred", ", ".join(f"{side} {count}" for side, count in report.preferred.items())),
        ("sizes", ", ".join(sizes[:5]) + more),
        ("splits", ", ".join(f"{name or 'none'} {count}" for name, count in report.splits.items())),
        *(("style", f"{name}: won {won}, lost {lost}") for name, (won, lost) in report.styles.items()),
        ("sha256", report.content_hash),
    ]
    for name, fact in facts:
        _say(f"{name:<10} {fact}")


def _print_problems(report: Report, limit: int) -> None:
    console = Console(soft_wrap=True, highlight=False, markup=False)
    for kind in dict.fromkeys(problem.kind for problem in report.problems):
        found = [problem for problem in report.problems if problem.kind is kind]
        severity = found[0].severity
        console.print(f"\n{severity}: {kind} ({len(found)})", style=_COLOURS[severity])
        for problem in found[:limit]:
            console.print(f"  {'file' if problem.row is None else f'row {problem.row}'}: {problem.text}")
        if len(found) > limit:
            console.print(f"  and {len(found) - limit} more; --limit shows more, --json all")
    counts = ", ".join(f"{report.num_of(severity)} {severity}s" for severity in Severity)
    console.print(f"\n{counts}.")


def _say(sentence: str) -> None:
    Console(soft_wrap=True, highlight=False, markup=False).print(sentence)
