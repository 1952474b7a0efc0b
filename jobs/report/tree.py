"""The family as a drawing: the teacher, the domain students, the vertical students."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from jobs.report import figures
from jobs.report.charts import standing
from jobs.report.models import Model, Record
from jobs.report.svg import Drawing

WIDTH, GAP_X, GAP_Y = 388.0, 26.0, 14.0
HEAD, ROW = 44.0, 27.0
_RIGHT = {"ne": 116.0, "auc": 161.0, "calibration": 200.0, "versus": 268.0, "twin": 344.0}
_ETA = 378.0
OPPONENTS = {"champion": "champion", "log_odds": "log-odds"}


@dataclass(frozen=True)
class _Box:
    model: Model
    x: float
    y: float
    height: float

    @property
    def left(self) -> tuple[float, float]:
        return self.x, self.y + self.height / 2

    @property
    def right(self) -> tuple[float, float]:
        return self.x + WIDTH, self.y + self.height / 2


def family_tree(models: Sequence[Model]) -> Drawing:
    """Draw a family.

    Args:
        models: As `read_models` orders them: the teacher first, the family as it serves last.
    """
    teacher, family = models[0], models[-1]
    domains = [model for model in models if model.kind == "domain"]
    boxes: list[_Box] = []
    links: list[tuple[_Box, _Box]] = []
    y = 0.0
    middle: list[_Box] = []
    for domain in domains:
        own = [m for m in models if m.kind == "vertical" and m.domain == domain.title]
        start, leaves = y, []
        for vertical in own:
            leaves.append(_Box(vertical, 2 * (WIDTH + GAP_X), y, _height(vertical)))
            y += _height(vertical) + GAP_Y
        height = _height(domain)
        centre = (start + y - GAP_Y) / 2 if own else start + height / 2
        at = max(centre - height / 2, start)
        y = max(y, at + height + GAP_Y)
        box = _Box(domain, WIDTH + GAP_X, at, height)
        middle.append(box)
        boxes += [box, *leaves]
        links += [(box, leaf) for leaf in leaves]
    top = max((y - 2 * GAP_Y - _height(teacher) - _height(family)) / 2, 0.0)
    root = _Box(teacher, 0.0, top, _height(teacher))
    served = _Box(family, 0.0, top + root.height + 2 * GAP_Y, _height(family))
    height = max(y - GAP_Y, served.y + served.height) + 2
    drawing = Drawing(3 * WIDTH + 2 * GAP_X, height, "The family of models", fixed=False)
    for parent, child in [*((root, box) for box in middle), *links]:
        drawing.link(parent.right, child.left, "link")
    for box in (root, served, *boxes):
        _draw(drawing, box)
    return drawing


def _height(model: Model) -> float:
    return HEAD + ROW * max(len(model.overall), 1) + 2


def _draw(drawing: Drawing, box: _Box) -> None:
    model, x, y = box.model, box.x, box.y
    css = f"node {model.kind}" + ("" if model.overall else " absent")
    drawing.rect((x + 0.5, y + 0.5), WIDTH - 1, box.height - 1, css, radius=5)
    title = "family as served" if model.kind == "family" else model.title
    drawing.text((x + 10, y + 18), title, "strong")
    drawing.text((x + WIDTH - 10, y + 18), _rows(model), "soft", "end")
    if not model.overall:
        trained = model.kind == "family" or model.learnt is not None
        said = "not judged" if trained else "not trained in this run"
        drawing.text((x + 10, y + HEAD + 6), said, "soft")
        return
    heads = {"ne": "NE", "auc": "AUC", "calibration": "cal."}
    heads["versus"] = f"vs {OPPONENTS.get(model.overall[0].opponent, model.overall[0].opponent)}"
    if model.gains:
        heads["twin"] = "vs twin"
        drawing.text((x + _ETA, y + 35), "eta", "soft small", "end")
    for column, head in heads.items():
        drawing.text((x + _RIGHT[column], y + 35), head, "soft small", "end")
    for index, record in enumerate(model.overall):
        _draw_task(drawing, model, record, x, y + HEAD + ROW * index)


def _draw_task(drawing: Drawing, model: Model, record: Record, x: float, y: float) -> None:
    css = "" if record.judged else "soft"
    drawing.line((x + 10, y - 4), (x + WIDTH - 10, y - 4), "grid")
    drawing.text((x + 10, y + 11), record.task, css)
    for metric, digits in (("ne", 4), ("auc", 4), ("calibration", 3)):
        value = record.own[metric].value
        why = record.why_undefined(metric) if math.isnan(value) else ""
        text = figures.decimal(value, digits)
        drawing.text((x + _RIGHT[metric], y + 11), text, f"number {css}", "end", why)
    if not record.judged:
        few = f"too small: {record.rows:,} rows, {record.positives:,} pos."
        drawing.text((x + _ETA, y + 11), few, "soft tiny", "end")
        return
    gain = model.gain(record.task)
    pairs = [("versus", record.versus)] + ([("twin", gain.versus)] if gain else [])
    for column, interval in pairs:
        right = x + _RIGHT[column]
        text = figures.change(interval.value)
        drawing.text((right, y + 10), text, f"number {standing(interval)}", "end")
        digits = 1 if max(map(abs, interval)) >= 0.02 else 2
        low, high = (figures.change(v, digits).removesuffix(" %") for v in interval[1:])
        drawing.text((right, y + 20), f"{low} to {high}", "soft tiny", "end")
    if gain:
        eta = figures.decimal(gain.eta.value, 2)
        drawing.text((x + _ETA, y + 10), eta, "number soft", "end", gain.eta.told)


def _rows(model: Model) -> str:
    judged = max((record.rows for record in model.overall), default=0)
    words = [f"learnt {model.learnt:,}"] if model.learnt is not None else []
    return ", ".join([*words, f"judged on {judged:,}"] if judged else words)
