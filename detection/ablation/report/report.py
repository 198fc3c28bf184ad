"""The report of an ablation: what is missing first, then figures, costs, commands and how to read all of it."""

import shlex
from collections.abc import Mapping, Sequence

from detection.ablation.costs import Cost, Costs, architecture_digest
from detection.ablation.report import formatting
from detection.ablation.report.provenance import describe_runs
from detection.ablation.size_matched import Control
from detection.ablation.summary import Summary
from detection.comparison.report import figures
from detection.evaluation.intervals import RESAMPLINGS
from detection.reports.document import Block, Bullets, Code, Heading, Paragraph, Picture, Table, to_markdown
from detection.reports.formatting import interval


def build_report(
    summary: Summary, costs: Costs | None, controls: Mapping[str, Control], what: str, command: Sequence[str]
) -> list[Block]:
    """All blocks of the report.

    Args:
        summary: the figures.
        costs: what architectures cost, as far as it was measured.
        controls: of equal size, by variant.
        what: they are equal in: `parameters` or `flops`.
        command: that made the report.
    """
    plan = summary.plan
    blocks: list[Block] = [Heading(1, f"Ablation {plan.name}"), *_overview(summary)]
    blocks += [*_all_data(summary), *_curves(summary)]
    for data in plan.ablation.data:
        blocks += [*_figures(summary, data, costs), *_classes(summary, data)]
    blocks += _controls(summary, controls, what)
    blocks += _costs(summary, costs)
    blocks += [Heading(2, "Runs"), *describe_runs(plan, summary.runs), Heading(3, "Commands")]
    blocks.append(Paragraph("All of it, from the folder that it was started in; then run by run."))
    blocks += [Code([shlex.join(command)]), Code([plan.text(cell) for cell in plan.cells])]
    return [*blocks, *_how_to_read(summary)]


def headline(summary: Summary) -> str:
    """The ablation's own metric and its differences, as tables for a terminal."""
    ablation = summary.plan.ablation
    blocks: list[Block] = []
    for data in ablation.data:
        rows = []
        for v in summary.plan.variants:
            other = "" if v == ablation.reference else formatting.difference(summary, data, v, ablation.metric)
            rows.append([v, formatting.spread(summary, data, v, ablation.metric), other])
        blocks.append(Table([data, ablation.metric, f"difference to {ablation.reference}"], rows))
    return to_markdown(blocks)


def _overview(summary: Summary) -> list[Block]:
    plan = summary.plan
    total, missing = len(plan.cells), summary.missing
    clear = f"{total - len(missing)} of {total} runs are finished"
    seeds = ", ".join(map(str, plan.ablation.seeds))
    blocks: list[Block] = [
        Paragraph(f"{clear}; seeds {seeds}. Every variant is compared with {plan.ablation.reference}.")
    ]
    if plan.left_out:
        blocks.append(Paragraph(f"This is a part of the ablation; left out by choice: {'; '.join(plan.left_out)}."))
    if missing:
        text = f"{len(missing)} of {total} runs are missing. A variant that lacks a seed has no mean and no difference."
        blocks.append(Paragraph(text, warning=True))
        blocks.append(Bullets([f"{name}: {reason}" for name, reason in missing.items()]))
    return blocks


def _all_data(summary: Summary) -> list[Block]:
    """The metric of all variants on all data sets, where there are several."""
    ablation = summary.plan.ablation
    if len(ablation.data) < 2:
        return []
    rows = []
    for variant in summary.plan.variants:
        cells = [variant]
        for data in ablation.data:
            found = None if variant == ablation.reference else summary.difference(data, variant, ablation.metric)
            cells.append(
                formatting.spread(summary, data, variant, ablation.metric)
                + ("*" if found and found.is_significant else "")
            )
        rows.append(cells)
    text = (
        f"{ablation.metric}, mean over seeds ± standard deviation between them. An asterisk marks a difference to "
        f"{ablation.reference} whose 95 % interval is without 0."
    )
    return [Heading(2, "All data sets"), Paragraph(text), Table(["variant", *ablation.data], rows)]


def _curves(summary: Summary) -> list[Block]:
    ablation, variants = summary.plan.ablation, list(summary.plan.variants)
    blocks: list[Block] = []
    for number, (quantity, where) in enumerate(ablation.curves.items(), start=1):
        names = sorted(where, key=lambda name: where[name])
        rows = [(v, [summary.spread(name, v, ablation.metric) for name in names]) for v in variants]
        figure = figures.plot_curves(rows, [where[name] for name in names], ablation.metric, quantity)
        caption = f"{ablation.metric} over {quantity}; bars are standard deviations between seeds."
        if any(spread is None for _, spreads in rows for spread in spreads):
            caption += " A gap is missing."
        blocks.append(Picture(f"curve-{number}.png", caption, figures.to_png(figure)))
    return blocks


def _figures(summary: Summary, data: str, costs: Costs | None) -> list[Block]:
    ablation, variants = summary.plan.ablation, list(summary.plan.variants)
    metric, reference = ablation.metric, ablation.reference
    columns = list(dict.fromkeys([metric, *ablation.kind.columns]))
    others = [variant for variant in variants if variant != reference]
    values = [[v, *(formatting.spread(summary, data, v, column) for column in columns)] for v in variants]
    differences = [[v, *(formatting.difference(summary, data, v, column) for column in columns)] for v in others]
    rows = [(v, summary.difference(data, v, metric)) for v in others]
    figure = figures.plot_differences(rows, f"{metric} on {data}, 95 % interval", reference)
    caption = f"{metric} on {data}: difference to {reference} with its 95 % interval; gray where it holds 0."
    blocks = [
        Heading(2, f"Figures on {data}"),
        Paragraph(f"Mean over seeds ± standard deviation between them{_on_images(summary, data)}."),
        Table(["variant", *columns], values),
        Heading(3, f"Difference to {reference} on {data}"),
        Paragraph("Mean over seeds [95 % interval]. An asterisk marks an interval without 0."),
        Table(["variant", *columns], differences),
        Picture(f"differences-{data}.png", caption, figures.to_png(figure)),
    ]
    found = [(v, summary.spread(data, v, metric), cost_of(summary, costs, data, v)) for v in variants]
    scatter = figures.plot_costs(found, metric, f"What {metric} on {data} costs")
    if scatter is not None:
        name = f"costs-{data}.png"
        blocks.append(Picture(name, f"{metric} on {data} over what each variant costs.", figures.to_png(scatter)))
    return blocks


def _on_images(summary: Summary, data: str) -> str:
    numbers = {summary.runs[c.name].num_images for c in summary.plan.cells if c.data == data and c.name in summary.runs}
    return f", on {' or '.join(map(str, sorted(numbers)))} images" if numbers else ""


def _classes(summary: Summary, data: str) -> list[Block]:
    ablation, names = summary.plan.ablation, summary.classes(data)
    if not names:
        return []
    metric, variants = class_metric(summary, data), list(summary.plan.variants)
    others = [variant for variant in variants if variant != ablation.reference]
    values = [[n, *(formatting.spread(summary, data, v, f"{metric}/{n}") for v in variants)] for n in names]
    differences = [[n, *(formatting.difference(summary, data, v, f"{metric}/{n}") for v in others)] for n in names]
    return [
        Heading(3, f"Classes of {data}"),
        Paragraph(f"{metric} of each class."),
        Table(["class", *variants], values),
        Paragraph(f"Difference to {ablation.reference}."),
        Table(["class", *others], differences),
    ]


def class_metric(summary: Summary, data: str) -> str:
    """The metric that classes have: the ablation's own, or else the first that there is."""
    cells = [cell for cell in summary.plan.cells if cell.data == data and cell.name in summary.runs]
    names = [name.partition("/")[0] for name in summary.runs[cells[0].name].numbers if "/" in name]
    return summary.plan.ablation.metric if summary.plan.ablation.metric in names else names[0]


def _controls(summary: Summary, controls: Mapping[str, Control], what: str) -> list[Block]:
    if not controls:
        return []
    ablation = summary.plan.ablation
    rows = []
    for variant, control in controls.items():
        off = control.size / control.target - 1
        found = [interval(summary.difference(d, variant, ablation.metric, control.name)) for d in ablation.data]
        rows.append([variant, control.name, f"{control.target:,}", f"{control.size:,} ({off:+.1%})", *found])
    reference = ablation.reference
    text = (
        f"{reference}, made wider until it has as many {what} as the variant: what more {what} do by themselves. "
        f"Differences of {ablation.metric}, variant − control. A variant that is no larger than {reference}, but for a "
        "fraction of a step in width, has none."
    )
    head = ["variant", "control", what, f"{what} of the control", *ablation.data]
    return [Heading(2, f"Controls with equal {what}"), Paragraph(text), Table(head, rows)]


def cost_of(summary: Summary, costs: Costs | None, data: str, variant: str) -> Cost | None:
    """What a variant costs on a data set, None where it was not measured."""
    if costs is None:
        return None
    kind, cell = summary.plan.ablation.kind, summary.plan.of(data, variant)[0]
    return costs.architectures.get(architecture_digest(kind, cell.config))


def _costs(summary: Summary, costs: Costs | None) -> list[Block]:
    blocks: list[Block] = [Heading(2, "Costs")]
    if costs is None:
        return [*blocks, Paragraph("Not measured.", warning=True)]
    ablation = summary.plan.ablation
    for data in ablation.data:
        reference = cost_of(summary, costs, data, ablation.reference)
        found = [(v, cost_of(summary, costs, data, v)) for v in summary.plan.variants]
        rows = [[v, *formatting.cost(cost, reference)] for v, cost in found]
        blocks.append(Table([f"on {data}", *formatting.COST_COLUMNS], rows))
    blocks.append(
        Paragraph(
            f"Measured on {costs.machine}: medians of {costs.rounds} rounds, in each of which every architecture has "
            "its turn, at its random start, on the first images of its data. × is to the reference. Operations are "
            "of one image, multiply-adds count twice; an update is one batch forward and backward with the "
            "optimizer's step; a look is one image. Memory is the most that either holds at a time beyond weights, "
            "gradients and inputs that were there before."
        )
    )
    return [
        *blocks,
        *([Bullets([f"not measured: {reason}" for reason in costs.failures.values()])] * bool(costs.failures)),
    ]


def _how_to_read(summary: Summary) -> list[Block]:
    seeds = len(summary.plan.ablation.seeds)
    about = (
        "Intervals are about both seeds and images: differences are taken seed by seed, their spread is what one "
        "training has for itself, and what the validation images do to all seeds alike is found by drawing the images "
        f"again {RESAMPLINGS} times, the same for both variants; the sum of both variances is taken by Student's t."
        if seeds > 1
        else f"There is one seed: intervals come from drawing the validation images again {RESAMPLINGS} times. They "
        "are about these trained networks on other images; they do not tell what another seed would do."
    )
    others = len(summary.plan.variants) - 1
    chance = f"Of {others} intervals at 95 %, {0.05 * others:.2g} miss the ground truth by chance alone, on average."
    missing = "A figure that lacks a seed is missing here; “n/a” is a figure that its data does not define."
    return [Heading(2, "How to read this"), Bullets([about, chance, missing])]
