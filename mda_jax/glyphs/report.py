"""Scores as figures and as one self-contained page."""

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mda_jax.glyphs.score import Scores, exam
from mda_jax.glyphs.store import SHIPPED


HEADER = ("model", "accuracy", "normalised", "seconds", "setting")
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>mda-jax demo</title><style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto;
        padding: 0 1rem; color: #222 }}
table {{ border-collapse: collapse }}
th, td {{ padding: .3rem .8rem; border-bottom: 1px solid #ddd; text-align: right }}
th:first-child, td:first-child, th:last-child, td:last-child {{ text-align: left }}
img {{ max-width: 100% }}
</style></head><body>
<h1>{count} experts, one model</h1>
<p>Each expert reads one script ({tasks}). Every method merges the same {count} experts
into one encoder; all are scored on the same fresh pictures. <em>Normalised</em> is the
merged model's accuracy over the expert's own, averaged over tasks.</p>
{table}
{figures}
</body></html>
"""


def rows(scores: Scores) -> list[tuple[str, ...]]:
    """The table of results under `HEADER`: the references, then the best first."""
    individual = np.array(list(scores["individual"].values()))
    pretrained = np.array(list(scores["pretrained"].values()))
    found = [
        _row("experts, each on its own task", individual.mean(), 1.0),
        _row("pretrained", pretrained.mean(), (pretrained / individual).mean()),
    ]
    for name, s in ranked(scores):
        setting = ", ".join(f"{k} {v:g}" for k, v in s["hyper"].items())
        row = _row(name, s["absolute"], s["normalised"], f"{s['seconds']:.2f}", setting)
        found.append(row)
    return found


def ranked(scores: Scores) -> list[tuple[str, Scores]]:
    """Methods and their scores, the best first."""
    return sorted(scores["methods"].items(), key=lambda item: -item[1]["absolute"])


def _row(name, absolute, normalised, seconds="", setting=""):
    return name, f"{absolute:.3f}", f"{normalised:.3f}", seconds, setting


def figures(scores: Scores) -> dict[str, Figure]:
    """The figures by name: `pictures`, `methods` and `tasks`."""
    return {
        "pictures": _pictures(scores["tasks"]),
        "methods": _methods(scores),
        "tasks": _per_task(scores),
    }


def write(scores: Scores, folder: Path) -> list[Path]:
    """Write the figures as PNG and everything as `report.html`; returns the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = {name: _png(figure) for name, figure in figures(scores).items()}
    paths = []
    for name, png in drawn.items():
        paths.append(folder / f"{name}.png")
        paths[-1].write_bytes(png)
    paths.append(folder / "report.html")
    paths[-1].write_text(_page(scores, drawn), encoding="utf-8")
    return paths


def _page(scores: Scores, drawn: dict[str, bytes]) -> str:
    lines = [_line("th", HEADER), *(_line("td", row) for row in rows(scores))]
    pictures = (
        f'<p><img alt="{name}" src="data:image/png;base64,'
        f'{base64.b64encode(png).decode()}"></p>'
        for name, png in drawn.items()
    )
    return _PAGE.format(
        count=len(scores["tasks"]),
        tasks=", ".join(scores["tasks"]),
        table=f"<table>{''.join(lines)}</table>",
        figures="\n".join(pictures),
    )


def _line(tag: str, cells: Sequence[str]) -> str:
    return f"<tr>{''.join(f'<{tag}>{html.escape(c)}</{tag}>' for c in cells)}</tr>"


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()


def _pictures(tasks: Sequence[str]) -> Figure:
    """A strip of random pictures of every task."""
    figure = Figure((8, 0.5 * len(tasks)), layout="constrained")
    axes = figure.subplots(len(tasks), squeeze=False)[:, 0]
    drawn = exam(tasks, SHIPPED, jax.random.key(0), 16).pictures
    for task, strip, each in zip(tasks, drawn, axes, strict=True):
        each.imshow(np.hstack(strip), cmap="gray", aspect="equal")
        each.set_ylabel(task, rotation=0, ha="right", va="center")
        each.set(xticks=[], yticks=[])
    return figure


def _methods(scores: Scores) -> Figure:
    """Mean accuracy of every method between the pretrained encoder and the experts."""
    names = [name for name, _ in ranked(scores)][::-1]
    figure = Figure((8, 1.2 + 0.35 * len(names)), layout="constrained")
    axes: Axes = figure.subplots()
    heights = [scores["methods"][name]["absolute"] for name in names]
    axes.barh(names, heights, color="#4477aa")
    for label, style in (("pretrained", ":"), ("individual", "--")):
        mean = np.mean(list(scores[label].values()))
        axes.axvline(mean, color="#222222", linestyle=style, label=label)
    axes.set(xlabel=f"mean accuracy over {len(scores['tasks'])} tasks", xlim=(0, 1))
    axes.legend(loc="lower right")
    return figure


def _per_task(scores: Scores) -> Figure:
    """Accuracy of every method on every task."""
    names = [name for name, _ in ranked(scores)]
    table = [list(scores["methods"][name]["per_task"].values()) for name in names]
    table = [*table, list(scores["individual"].values())]
    width = max(8, 0.55 * len(scores["tasks"]))
    figure = Figure((width, 2 + 0.35 * len(table)), layout="constrained")
    axes: Axes = figure.subplots()
    shown = axes.imshow(table, vmin=0, vmax=1, cmap="viridis", aspect="auto")
    axes.set_xticks(
        range(len(scores["tasks"])), scores["tasks"], rotation=40, ha="right"
    )
    axes.set_yticks(range(len(table)), [*names, "individual"])
    for (i, j), value in np.ndenumerate(table):
        shade = "black" if value > 0.6 else "white"
        axes.text(j, i, f"{value:.2f}", ha="center", va="center", color=shade, size=8)
    figure.colorbar(shown, label="accuracy")
    return figure
