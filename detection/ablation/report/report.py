"""The report of an ablation: missing runs first, then metrics, costs, commands and how to read all of it."""

import shlex
from collections.abc import Iterator, Mapping, Sequence

from detection.ablation.costs import ArchitectureCost, MeasuredCosts
from detection.ablation.report import figures, formatting
from detection.ablation.report.provenance import describe_runs
from detection.ablation.size_matched import Control
from detection.ablation.summary import AblationSummary
from detection.evaluation.intervals import RESAMPLINGS, format_interval
from detection.reports.document import Block, Bullets, Code, Figure, Heading, Paragraph, Table, to_markdown
from detection.reports.files import to_png


def build_report(
    summary: AblationSummary,
    costs: MeasuredCosts | None,
    controls: Mapping[str, Control],
    what: str,
    command: Sequence[str],
) -> list[Block]:
    """Build all blocks of the report, which `command` makes; `what` the controls match is `parameters` or `flops`."""
    plan = summary.plan
    blocks: list[Block] = [Heading(1, f"Ablation {plan.name}"), *_overview(summary)]
    blocks += [*_all_data(summary), *_curves(summary)]
    for data in plan.ablation.data:
        blocks += [*_metrics(summary, data, costs), *_classes(summary, data)]
    blocks += [*_controls(summary, controls, what), *_costs(summary, costs)]
    blocks += [Heading(2, "Runs"), *describe_runs(plan, summary.results), Heading(3, "Commands")]
    blocks.append(Paragraph("The ablation, from the folder that it was started in; then each run."))
    blocks += [Code([shlex.join(command)]), Code([plan.printed_command(run) for run in plan.runs])]
    return [*blocks, *_how_to_read(summary)]


def headline(summary: AblationSummary) -> str:
    """The ablation's main metric and its differences, as tables for a terminal."""
    ablation = summary.plan.ablation
    blocks: list[Block] = []
    for data in ablation.data:
        rows = []
        for v in summary.plan.variants:
            other = "" if v == ablation.reference else formatting.difference(summary, data, v, ablation.metric)
            rows.append([v, formatting.spread(summary, data, v, ablation.metric), other])
        blocks.append(Table([data, ablation.metric, f"difference to {ablation.reference}"], rows))
    return to_markdown(blocks)


def _overview(summary: AblationSummary) -> Iterator[Block]:
    plan, missing = summary.plan, summary.missing
    total, seeds = len(plan.runs), ", ".join(map(str, plan.ablation.seeds))
    finished = f"{total - len(missing)} of {total} runs are finished"
    yield Paragraph(f"{finished}; seeds {seeds}. Every variant is compared with {plan.ablation.reference}.")
    if plan.left_out:
        yield Paragraph(f"This is a part of the ablation; left out by choice: {'; '.join(plan.left_out)}.")
    if missing:
        counted = f"{len(missing)} of {total} runs are missing."
        yield Paragraph(f"{counted} A variant with a missing seed has no mean and no difference.", warning=True)
        yield Bullets([f"{name}: {reason}" for name, reason in missing.items()])


def _all_data(summary: AblationSummary) -> list[Block]:
    """The main metric of all variants on all data sets, where there are several."""
    ablation = summary.plan.ablation
    if len(ablation.data) < 2:
        return []
    rows = []
    for variant in summary.plan.variants:
        texts = [variant]
        for data in ablation.data:
            found = None if variant == ablation.reference else summary.difference(data, variant, ablation.metric)
            mark = "*" if found and found.is_significant else ""
            texts.append(formatting.spread(summary, data, variant, ablation.metric) + mark)
        rows.append(texts)
    text = (
        f"{ablation.metric}, mean over seeds ± standard deviation between them. An asterisk marks a difference to "
        f"{ablation.reference} whose 95 % interval excludes 0."
    )
    return [Heading(2, "All data sets"), Paragraph(text), Table(["variant", *ablation.data], rows)]


def _curves(summary: AblationSummary) -> Iterator[Block]:
    ablation, variants = summary.plan.ablation, list(summary.plan.variants)
    for number, (quantity, where) in enumerate(ablation.curves.items(), start=1):
        names = sorted(where, key=lambda name: where[name])
        rows = [(v, [summary.spread(name, v, ablation.metric) for name in names]) for v in variants]
        figure = figures.plot_curves(rows, [where[name] for name in names], ablation.metric, quantity)
        caption = f"{ablation.metric} over {quantity}; bars are standard deviations between seeds."
        if any(spread is None for _, spreads in rows for spread in spreads):
            caption += " A gap is missing."
        yield Figure(f"curve-{number}.png", caption, to_png(figure))


def _metrics(summary: AblationSummary, data: str, costs: MeasuredCosts | None) -> list[Block]:
    ablation, variants = summary.plan.ablation, list(summary.plan.variants)
    metric, reference = ablation.metric, ablation.reference
    columns = list(dict.fromkeys([metric, *ablation.run_type.columns]))
    others = [variant for variant in variants if variant != reference]
    values = [[v, *(formatting.spread(summary, data, v, column) for column in columns)] for v in variants]
    differences = [[v, *(formatting.difference(summary, data, v, column) for column in columns)] for v in others]
    rows = [(v, summary.difference(data, v, metric)) for v in others]
    figure = figures.plot_differences(rows, f"{metric} on {data}, 95 % interval", reference)
    caption = f"{metric} on {data}: difference to {reference} with its 95 % interval; gray where it includes 0."
    blocks = [
        Heading(2, f"Metrics on {data}"),
        Paragraph(f"Mean over seeds ± standard deviation between them{_on_images(summary, data)}."),
        Table(["variant", *columns], values),
        Heading(3, f"Difference to {reference} on {data}"),
        Paragraph("Mean over seeds [95 % interval]. An asterisk marks an interval that excludes 0."),
        Table(["variant", *columns], differences),
        Figure(f"differences-{data}.png", caption, to_png(figure)),
    ]
    found = [(v, summary.spread(data, v, metric), cost_of(summary, costs, data, v)) for v in variants]
    scatter = figures.plot_costs(found, metric, f"{metric} on {data} over costs")
    if scatter is not None:
        name = f"costs-{data}.png"
        blocks.append(Figure(name, f"{metric} on {data} over the costs of each variant.", to_png(scatter)))
    return blocks


def _on_images(summary: AblationSummary, data: str) -> str:
    numbers = {result.num_images for result in summary.of_data(data)}
    return f", on {' or '.join(map(str, sorted(numbers)))} images" if numbers else ""


def _classes(summary: AblationSummary, data: str) -> list[Block]:
    ablation, found = summary.plan.ablation, summary.class_metrics(data)
    if not found:
        return []
    metrics, names = ({pair[i]: None for pair in found} for i in (0, 1))  # in their order, each once
    metric, variants = ablation.metric if ablation.metric in metrics else next(iter(metrics)), summary.plan.variants
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


def _controls(summary: AblationSummary, controls: Mapping[str, Control], what: str) -> list[Block]:
    if not controls:
        return []
    ablation = summary.plan.ablation
    rows = []
    for variant, control in controls.items():
        off = control.size / control.target - 1
        found = [summary.difference(data, variant, ablation.metric, control.name) for data in ablation.data]
        sizes = [f"{control.target:,}", f"{control.size:,} ({off:+.1%})"]
        rows.append([variant, control.name, *sizes, *map(format_interval, found)])
    reference = ablation.reference
    text = (
        f"{reference}, made wider until it has as many {what} as the variant: the effect of more {what} alone. "
        f"Differences of {ablation.metric}, variant − control. A variant that is no larger than {reference}, or by "
        "less than a step in width, has none."
    )
    head = ["variant", "control", what, f"{what} of the control", *ablation.data]
    return [Heading(2, f"Controls with equal {what}"), Paragraph(text), Table(head, rows)]


def cost_of(summary: AblationSummary, costs: MeasuredCosts | None, data: str, variant: str) -> ArchitectureCost | None:
    """The cost of a variant on a data set, None where it was not measured."""
    if costs is None:
        return None
    run_type, run = summary.plan.ablation.run_type, summary.plan.of(data, variant)[0]
    return costs.architectures.get(run_type.digest(run_type.architecture(run.config)))


def _costs(summary: AblationSummary, costs: MeasuredCosts | None) -> Iterator[Block]:
    yield Heading(2, "Costs")
    if costs is None:
        yield Paragraph("Not measured.", warning=True)
        return
    ablation = summary.plan.ablation
    for data in ablation.data:
        reference = cost_of(summary, costs, data, ablation.reference)
        found = [(v, cost_of(summary, costs, data, v)) for v in summary.plan.variants]
        rows = [[v, *formatting.cost(cost, reference)] for v, cost in found]
        yield Table([f"on {data}", *formatting.COST_COLUMNS], rows)
    yield Paragraph(
        f"Measured on {costs.machine}: medians of {costs.rounds} rounds, in each of which every architecture has its "
        "turn, at random weights, on the first images of its data. × is relative to the reference. FLOPs are of one "
        "image, a multiply-add counts twice; a training step is one batch forward and backward with the optimizer's "
        "step; inference is of one image. Memory is the peak beyond weights, gradients and inputs that were allocated "
        "before."
    )
    if costs.failures:
        yield Bullets([f"not measured: {reason}" for reason in costs.failures.values()])


def _how_to_read(summary: AblationSummary) -> list[Block]:
    about = (
        "Intervals cover both seeds and images: differences are taken seed by seed, their variance is that of single "
        "trainings, and the effect of the validation images on all seeds alike is found by bootstrapping the images "
        f"{RESAMPLINGS} times, the same for both variants; the sum of both variances gives a Student's t interval."
        if len(summary.plan.ablation.seeds) > 1
        else f"There is one seed: intervals come from bootstrapping the validation images {RESAMPLINGS} times. They "
        "are about these trained networks on other images, not about another seed."
    )
    others = len(summary.plan.variants) - 1
    chance = f"Of {others} intervals at 95 %, {0.05 * others:.2g} miss the true difference by chance, on average."
    missing = "A value with a missing seed is missing here; “n/a” is a metric that its data does not define."
    return [Heading(2, "How to read this"), Bullets([about, chance, missing])]
