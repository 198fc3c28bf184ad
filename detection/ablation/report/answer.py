"""First screen of an ablation with a question: the answer in words, by class and size, its costs, and the images."""

from collections.abc import Iterator, Sequence

from detection.ablation.costs import MeasuredCosts, cost_of
from detection.ablation.own_data.answer import Answer, judge, together
from detection.ablation.own_data.question import WIDER
from detection.ablation.report import formatting
from detection.ablation.summary import AblationSummary
from detection.ablation.verdicts import verdicts
from detection.evaluation.intervals import format_interval
from detection.evaluation.seeds import holm
from detection.names import short_names
from detection.reports.document import Block, Bullets, Heading, Paragraph, Table

DRAWN = 4
"""Images that are drawn of each kind."""

_SIZES = {
    "APs": "small objects (below 32² pixels)",
    "APm": "medium objects",
    "APl": "large objects (above 96² pixels)",
}


def answers(summary: AblationSummary) -> dict[str, Answer]:
    """The answers of the default against the reference and the wider one, and both together as ``""``."""
    ablation = summary.plan.ablation
    assert ablation.question is not None
    (data,), default, found = ablation.data, ablation.question.default, dict[str, Answer]()
    tested = verdicts(summary, data, ablation.metric)
    for rival in _rivals(summary):
        verdict = tested.get((default, rival))
        best = _best(summary, ablation.metric, rival)
        interval, p_value = (None, None) if verdict is None else (verdict.interval, verdict.p_mean)
        found[rival] = judge(interval, p_value, ablation.metric, best, _images_of(summary), ablation.seeds)
    finished = not any(summary.missing_seeds(data, name) for name in (default, *_rivals(summary)))
    return {"": together(found, default, ablation.reference, finished=finished), **found}


def answer_text(summary: AblationSummary) -> list[str]:
    """The answer and its parts as lines for a terminal."""
    found = answers(summary)
    return [found[""].text, *(_against(summary, rival, answer) for rival, answer in found.items() if rival)]


def answer_blocks(summary: AblationSummary, costs: MeasuredCosts | None) -> list[Block]:
    """Build the first screen; nothing where the ablation asks no question."""
    ablation = summary.plan.ablation
    if ablation.question is None:
        return []
    first, *parts = answer_text(summary)
    blocks: list[Block] = [Paragraph(first, warning=True), Bullets([*parts, *_basis(summary, costs)])]
    return [*blocks, *_by_part(summary), *_costs(summary, costs), *_images(summary)]


def _best(summary: AblationSummary, metric: str, rival: str) -> float:
    """The higher mean of the default and what it is compared with; 1 where one is missing."""
    ablation = summary.plan.ablation
    assert ablation.question is not None
    (data,) = ablation.data
    spreads = [summary.spread(data, name, metric) for name in (ablation.question.default, rival)]
    return max((spread.mean if spread else 1.0) for spread in spreads)


def _images_of(summary: AblationSummary) -> int:
    """The number of images that every run was evaluated on."""
    return min((result.num_images for result in summary.results.values()), default=0)


def data_blocks(remarks: Sequence[str]) -> list[Block]:
    """List what was found in the data before the first run, and what was decided from it."""
    return [Heading(2, "Data and plan"), Bullets(list(remarks))] if remarks else []


def _rivals(summary: AblationSummary) -> list[str]:
    ablation = summary.plan.ablation
    return [name for name in (ablation.reference, WIDER) if name in summary.plan.variants]


def _against(summary: AblationSummary, rival: str, answer: Answer) -> str:
    ablation = summary.plan.ablation
    assert ablation.question is not None
    (data,), default = ablation.data, ablation.question.default
    values = [formatting.spread(summary, data, name, ablation.metric) for name in (default, rival)]
    what = "without context" if rival == ablation.reference else "without context, as many FLOPs"
    return f"Against {rival} ({what}): {answer.text}. {default} has {values[0]}, {rival} {values[1]}."


def _basis(summary: AblationSummary, costs: MeasuredCosts | None) -> Iterator[str]:
    ablation = summary.plan.ablation
    assert ablation.question is not None
    (data,) = ablation.data
    run = summary.plan.runs[0]
    images = {result.num_images for result in summary.of_data(data)}
    counted = f", {' or '.join(map(str, sorted(images)))} images" if images else ""
    seeds = ", ".join(map(str, ablation.seeds))
    yield f"Measured on {ablation.run_type.evaluated_on(run.config) or data}{counted}; seeds {seeds}."
    own, plain = (cost_of(summary.plan, costs, data, name) for name in (ablation.question.default, ablation.reference))
    if own is not None and plain is not None:
        yield (
            f"Its costs against {ablation.reference}: {own.train_step_s / plain.train_step_s:.2f} × the time of a "
            f"training step, {own.inference_s / plain.inference_s:.2f} × that of inference, "
            f"{own.parameters / plain.parameters:.2f} × the parameters, "
            f"{own.train_bytes / max(1, plain.train_bytes):.2f} × the memory of training."
        )


def _by_part(summary: AblationSummary) -> list[Block]:
    """The differences of each class and size of objects, with words; all of them are one family."""
    ablation = summary.plan.ablation
    assert ablation.question is not None
    (data,), default = ablation.data, ablation.question.default
    classes = [(metric, name) for metric, name in summary.class_metrics(data) if metric == ablation.metric]
    shown = short_names([name for _, name in classes])
    rows = {f"{metric}/{name}": short for (metric, name), short in zip(classes, shown, strict=True)}
    # By size there is AP alone.
    of_size = "" if ablation.metric == "AP" else "AP of "
    rows |= {key: f"{of_size}{text}" for key, text in _SIZES.items() if key in ablation.run_type.metrics}
    rivals = [rival for rival in _rivals(summary) if summary.spread(data, rival, ablation.metric)]
    # Sizes that the data do not have are no rows.
    rows = {key: text for key, text in rows.items() if summary.spread(data, default, key)}
    if not rows or not rivals:
        return []
    intervals = {(key, rival): summary.difference(data, default, key, rival) for key in rows for rival in rivals}
    tested = [
        pair for pair, found in intervals.items() if found is not None and found.seeds > 1 and not found.has_few_images
    ]
    adjusted = dict(zip(tested, holm([_p(intervals[pair]) for pair in tested]), strict=True))
    lines = []
    for key, text in rows.items():
        cells = [text]
        for rival in rivals:
            best, images = _best(summary, key, rival), _images_of(summary)
            answer = judge(intervals[key, rival], adjusted.get((key, rival)), key, best, images)
            word = {"undetermined": "cannot be determined", "missing": "n/a"}.get(answer.outcome, answer.outcome)
            cells += [word, format_interval(intervals[key, rival], mark=False)]
        cells += [formatting.spread(summary, data, name, key) for name in (default, *rivals)]
        lines.append(cells)
    head = ["", *(text for rival in rivals for text in (f"against {rival}", "difference")), default, *rivals]
    text = (
        f"{ablation.metric} by class and size of objects. What helps or hurts does so together at 95 % (Holm, over "
        "all rows and columns of this table); what is level is so by itself."
    )
    return [Heading(2, "By class and object size"), Paragraph(text), Table(head, lines)]


def _p(interval) -> float:
    return 1.0 if interval is None else interval.p_value


def _costs(summary: AblationSummary, costs: MeasuredCosts | None) -> list[Block]:
    ablation = summary.plan.ablation
    assert ablation.question is not None
    (data,) = ablation.data
    reference = cost_of(summary.plan, costs, data, ablation.reference)
    names = [*_rivals(summary), ablation.question.default]
    rows = [[name, *formatting.cost(cost_of(summary.plan, costs, data, name), reference)] for name in names]
    if reference is None:
        return []
    text = "Costs of the three that answer the question; how they were measured is described below, with the others'."
    return [Heading(2, "What it costs"), Paragraph(text), Table(["variant", *formatting.COST_COLUMNS], rows)]


def _images(summary: AblationSummary) -> list[Block]:
    """The images that the default gets right and the reference does not, and the other way round."""
    ablation = summary.plan.ablation
    assert ablation.question is not None
    (data,), default, reference = ablation.data, ablation.question.default, ablation.reference
    if not (summary.spread(data, default, ablation.metric) and summary.spread(data, reference, ablation.metric)):
        return []
    runs = zip(summary.plan.of(data, reference), summary.plan.of(data, default), strict=True)
    found = ablation.run_type.changed_images([(a.folder, b.folder) for a, b in runs], (reference, default), DRAWN)
    if not found.text:
        return []
    blocks: list[Block] = [Heading(2, "Images that context saved, and those it broke"), Paragraph(found.text)]
    for title, figures in (("Saved", found.saved), ("Broken", found.broken)):
        blocks += [Heading(3, title), *(figures or [Paragraph("None.")])]
    return blocks
