"""The report: one static HTML page with its plots and pictures beside it, and the same figures as JSON."""

import io
import json
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lienzo.errors import OutputError
from lienzo.evaluation.metrics import missing
from lienzo.evaluation.resampling import Interval
from lienzo.evaluation.scores import Evaluation, Scores

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PAGE, DATA, PLOTS = "index.html", "report.json", "plots"
COLOURS = ("#3465a4", "#d17c00")
"""Of the two sides; told apart by colour-blind eyes too."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """How a score is called and read."""

    title: str
    better: str
    about: str


KINDS: Mapping[str, Kind] = {
    "clip_score": Kind(
        title="CLIP score",
        better="higher",
        about="how well a picture fits its prompt: 100 times the cosine, at least 0",
    ),
    "fid": Kind(
        title="FID",
        better="lower",
        about="distance to the real pictures; compare only figures of equally many pictures",
    ),
    "kid": Kind(
        title="KID",
        better="lower",
        about="distance to the real pictures, whose mean does not depend on how many there are",
    ),
    "precision": Kind(title="precision", better="higher", about="part of the made pictures that look like real ones"),
    "recall": Kind(title="recall", better="higher", about="part of the real pictures that look like made ones"),
    "diversity": Kind(title="diversity", better="as asked for", about="mean distance between pictures of one prompt"),
    "psnr": Kind(title="PSNR, dB", better="higher: more alike", about="between the sides' pictures, where they differ"),
    "ssim": Kind(title="SSIM", better="higher: more alike", about="structural similarity between the sides' pictures"),
}
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; color: #222; background: #fff; }
table { border-collapse: collapse; margin: 1rem 0; display: block; overflow-x: auto; }
th, td { padding: .25rem .75rem; text-align: left; border-bottom: 1px solid #ddd; min-width: 4rem; }
td.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; } td.long, td:last-child:not(.n) { overflow-wrap: anywhere; min-width: 14rem; } img { max-width: 100%; height: auto; }
.sheet { display: flex; flex-wrap: wrap; gap: 4px; align-items: flex-start; } .sheet img { width: 8rem; border-bottom: 4px solid; }
.side0 { border-color: #3465a4; } .side1 { border-color: #d17c00; } small { color: #666; } code { overflow-wrap: anywhere; }
figure { display: inline-block; margin: 0 1rem 1rem 0; }
"""


def check_plots() -> None:
    """Raises MissingExtraError: matplotlib is not installed."""
    if find_spec("matplotlib") is None:
        raise missing("The report's plots need matplotlib")


def write(evaluation: Evaluation, folder: Path) -> Path:
    """Write the report into a folder, over an older one; the pictures stay where they are and are linked.

    Returns:
        The page.

    Raises:
        OutputError: it cannot be written.
        MissingExtraError: matplotlib is not installed.
    """
    data = evaluation.to_dict(folder)
    drawn = {name: _drawn(draw, evaluation) for name, draw in _plots(evaluation).items()}
    try:
        (folder / PLOTS).mkdir(parents=True, exist_ok=True)
        for name, content in drawn.items():
            place(folder / PLOTS / f"{name}.png", content)
        place(folder / DATA, (json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())
        place(folder / PAGE, page(evaluation, data, list(drawn)).encode())
    except OSError as error:
        raise OutputError(f"{folder}: the report cannot be written: {error.strerror or error}.") from None
    return folder / PAGE


def summary(evaluation: Evaluation) -> list[tuple[str, ...]]:
    """Rows of a table: score, then a cell for each side, then the difference (and what is told of pairs)."""
    rows = []
    for name, kind in KINDS.items():
        cells = [_shown(scores.overall.get(name)) for scores in evaluation.scores]
        if evaluation.comparison is not None:
            cells.append(_shown(evaluation.comparison.overall.get(name)))
        if any(cells):
            rows.append((kind.title, *cells))
    return rows


def page(evaluation: Evaluation, data: Mapping[str, Any], plots: Sequence[str]) -> str:
    """The report as HTML, valid XML too.

    Args:
        data: `Evaluation.to_dict`, for the pictures' paths.
        plots: names of the files in the folder of plots.
    """
    names = [scores.side.name for scores in evaluation.scores]
    title = "Evaluation of " + " and ".join(names)
    figures = [
        f'<figure><img src="{PLOTS}/{escape(name)}.png" alt="{escape(name.replace("_", " "))}" width="480"/></figure>'
        for name in plots
    ]
    body = [
        f"<h1>{escape(title)}</h1>",
        f"<p>{len(evaluation.prompts)} prompts, seeds {escape(_range(evaluation.seeds))}, {evaluation.real['pictures']} real "
        f'pictures. The same figures as JSON: <a href="{DATA}">{DATA}</a>.</p>',
        *_models(evaluation),
        "<h2>Scores</h2>",
        *_scores(evaluation),
        *_listed("Not computed", [f"{_title(name)}: {why}." for name, why in evaluation.left_out.items()]),
        *_listed("Bear in mind", [*evaluation.notes, *_skipped(evaluation)]),
        *(["<h2>Plots</h2>", *figures] if figures else []),
        *_folds(evaluation),
        *_groups(evaluation),
        "<h2>All pictures</h2>",
        "<p>Every picture that was made, unpicked, in the order of seeds"
        + (f"; {escape(names[0])} first, then {escape(names[1])}" if len(names) == 2 else "")
        + ".</p>",
        *_sheets(evaluation, data),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"/>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"/>'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>\n" + "\n".join(body) + "\n</body></html>\n"
    )


def _models(evaluation: Evaluation) -> Iterator[str]:
    keys = list(dict.fromkeys(key for scores in evaluation.scores for key in scores.side.about))
    rows = [[key, *(_plain(scores.side.about.get(key)) for scores in evaluation.scores)] for key in keys]
    yield from _table(["", *(scores.side.name for scores in evaluation.scores)], rows)
    judges = [f"{key}: {of['name']}, digest {of['digest'][:16]}" for key, of in evaluation.networks.items()]
    yield f"<p>Judged by {escape('; '.join(judges) or 'pixels alone')}. Diversity is of {escape(evaluation.diversity_of)}.</p>"


def _scores(evaluation: Evaluation) -> Iterator[str]:
    head = ["score", *(scores.side.name for scores in evaluation.scores)]
    head += ["second less first, or between them"] if evaluation.comparison else []
    kinds = {kind.title: kind for kind in KINDS.values()}
    rows = [[*row, f"{kinds[row[0]].better}: {kinds[row[0]].about}"] for row in summary(evaluation)]
    yield from _table([*head, "better"], rows)
    yield (
        f"<p><small>In brackets: 95 % of {evaluation.resamples} resamples of prompts (a tenth of that for FID, KID, precision and "
        "recall, which resample the real pictures too), laid around the value. They tell how much hangs on these prompts and "
        "pictures, not whether the score itself is a good one.</small></p>"
    )
    if evaluation.comparison is not None:
        pairs = len(evaluation.prompts) * len(evaluation.seeds)
        yield f"<p>{evaluation.comparison.equal} of {pairs} pairs are equal bit for bit.</p>"


def _folds(evaluation: Evaluation) -> Iterator[str]:
    rows = []
    for scores in evaluation.scores:
        for name, values in scores.folds.items():
            spread = f"{np.mean(values):.4g} ± {np.std(values, ddof=1):.2g}"
            rows.append([scores.side.name, _title(name), *(f"{value:.4g}" for value in values), spread])
    if rows:
        k = len(rows[0]) - 3
        yield f"<h2>{k} folds of prompts</h2>"
        yield "<p>The same scores on parts of the prompts: they should tell the same story. FID is not among them, as fewer "
        yield "pictures alone raise it.</p>"
        yield from _table(["", "score", *(f"fold {i + 1}" for i in range(k)), "mean ± deviation"], rows)


def _groups(evaluation: Evaluation) -> Iterator[str]:
    rows = [
        [scores.side.name, group or "(none)", *(_shown(found.get(name)) for name in scores.by_prompt)]
        for scores in evaluation.scores
        for group, found in scores.groups.items()
    ]
    if rows:
        yield "<h2>Groups of prompts</h2>"
        yield from _table(["", "group", *map(_title, evaluation.scores[0].by_prompt)], rows)


def _sheets(evaluation: Evaluation, data: Mapping[str, Any]) -> Iterator[str]:
    seeds = evaluation.seeds
    for i, prompt in enumerate(evaluation.prompts):
        yield f"<h3>{escape(prompt.text)}</h3>"
        told = [
            f"{scores.side.name}: {_title(name)} {values[i]:.4g}"
            for scores in evaluation.scores
            for name, values in scores.by_prompt.items()
        ]
        yield f"<p><small>{escape('; '.join(told))}</small></p>"
        for side, scores in enumerate(evaluation.scores):
            yield '<div class="sheet">'
            for j, seed in enumerate(seeds):
                path = escape(data["scores"][side]["side"]["pictures"][i * len(seeds) + j])
                alt = escape(f"{prompt.text}, seed {seed}, {scores.side.name}")
                yield f'<a href="{path}"><img class="side{side}" src="{path}" alt="{alt}" title="{alt}" loading="lazy"/></a>'
            yield "</div>"


def _listed(title: str, lines: Sequence[str]) -> Iterator[str]:
    if lines:
        yield f"<h2>{escape(title)}</h2><ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"


def _skipped(evaluation: Evaluation) -> Iterator[str]:
    for skipped in evaluation.real["skipped"]:
        yield f"left out: {skipped['why']}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield "<table><tr>" + "".join(f"<th>{escape(cell)}</th>" for cell in head) + "</tr>"
    for row in rows:
        yield "<tr>" + "".join(f"<td{_class(cell)}>{escape(cell)}</td>" for cell in row) + "</tr>"
    yield "</table>"


def _class(cell: str) -> str:
    if max(map(len, cell.split()), default=0) > 32:  # a digest, say
        return ' class="long"'
    return ' class="n"' if cell[:1].isdigit() or cell[:2].lstrip("-")[:1].isdigit() else ""


def _shown(interval: Interval | None) -> str:
    return "" if interval is None else str(interval)


def _title(name: str) -> str:
    return KINDS[name].title if name in KINDS else name


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={item}" for key, item in value.items()) or "the model's own"
    return "" if value is None else str(value)


def _range(seeds: Sequence[int]) -> str:
    return f"{seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else str(seeds[0])


# --- plots ------------------------------------------------------------------------------------------------------------


def _plots(evaluation: Evaluation) -> dict[str, Any]:
    """Name -> what draws it on axes."""
    found: dict[str, Any] = {}
    for name in ("clip_score", "diversity"):
        if name in evaluation.scores[0].by_prompt and len(evaluation.prompts) > 1:
            found[f"{name}_by_prompt"] = lambda axes, of, name=name: _histogram(axes, of.scores, name)
    for name in evaluation.scores[0].folds:
        found[f"{name}_by_fold"] = lambda axes, of, name=name: _fold_points(axes, of.scores, name)
    if evaluation.comparison is not None and "clip_score" in evaluation.comparison.by_picture:
        found["clip_score_difference"] = _differences
    if evaluation.comparison is not None and any(
        v is not None for v in evaluation.comparison.by_picture.get("psnr", ())
    ):
        found["psnr_of_pairs"] = _noise
    return found


def _drawn(draw: Any, evaluation: Evaluation) -> bytes:
    check_plots()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.6), dpi=120, layout="constrained")
    axes = figure.subplots()
    draw(axes, evaluation)
    axes.spines[["top", "right"]].set_visible(False)
    data = io.BytesIO()
    figure.savefig(data, format="png", metadata={"Software": None})
    return data.getvalue()


def _histogram(axes: "Axes", scores: Sequence[Scores], name: str) -> None:
    values = [np.array(one.by_prompt[name]) for one in scores]
    bins = np.histogram_bin_edges(np.concatenate(values), bins=min(20, max(5, len(values[0]) // 4)))
    for one, found, colour in zip(scores, values, COLOURS, strict=False):
        axes.hist(found, bins=bins.tolist(), alpha=0.6, color=colour, label=one.side.name)
        axes.axvline(float(found.mean()), color=colour, linestyle="--")
    axes.set(xlabel=f"{_title(name)}, mean of a prompt's pictures", ylabel="prompts")
    axes.legend(frameon=False)


def _fold_points(axes: "Axes", scores: Sequence[Scores], name: str) -> None:
    for one, colour in zip(scores, COLOURS, strict=False):
        values = one.folds[name]
        axes.plot(range(1, len(values) + 1), values, "o", color=colour, label=one.side.name)
        axes.axhline(float(np.mean(values)), color=colour, linestyle="--")
    axes.set(xlabel="fold of prompts", ylabel=_title(name), xticks=range(1, len(scores[0].folds[name]) + 1))
    axes.legend(frameon=False)


def _differences(axes: "Axes", evaluation: Evaluation) -> None:
    assert evaluation.comparison is not None
    values = np.sort(np.array(evaluation.comparison.by_picture["clip_score"], dtype=np.float64))
    axes.bar(range(len(values)), values, width=1.0, color=[COLOURS[int(value > 0)] for value in values])
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set(xlabel="pairs of pictures, sorted", ylabel="CLIP score, second less first")


def _noise(axes: "Axes", evaluation: Evaluation) -> None:
    assert evaluation.comparison is not None
    values = [v for v in evaluation.comparison.by_picture["psnr"] if v is not None]
    axes.hist(values, bins=min(20, max(5, len(values) // 4)), color=COLOURS[0])
    axes.set(xlabel="PSNR of a pair, dB", ylabel="pairs that differ")


def place(path: Path, content: bytes) -> None:
    """Write a file over an older one: whole, or not at all."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
