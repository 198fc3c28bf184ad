"""The report of an ablation: missing runs first, then metrics, costs, commands and how to read all of it."""

import re
from collections.abc import Iterator, Mapping, Sequence

from detection.ablation.costs import MeasuredCosts, cost_of
from detection.ablation.plan import Plan
from detection.ablation.report import figures, formatting
from detection.ablation.report.answer import answer_blocks, answer_text, data_blocks
from detection.ablation.report.comparisons import difference_blocks, primary_comparisons
from detection.ablation.report.learning_curves import plot_learning, read_curve
from detection.ablation.report.provenance import describe_runs
from detection.ablation.report.seeds import seed_blocks
from detection.ablation.report.suite import suite_blocks
from detection.ablation.size_matched import Control
from detection.ablation.summary import AblationSummary
from detection.ablation.verdicts import verdicts
from detection.evaluation.intervals import RESAMPLINGS, TOO_FEW
from detection.reports.document import Block, Bullets, Code, Figure, Heading, Paragraph, Table, to_markdown
from detection.reports.files import to_png

_INTERVAL = re.compile(r"\[[−+]?\d[\d.]*, [−+]?\d[\d.]*\]")


def build_report(
    summary: AblationSummary,
    costs: MeasuredCosts | None,
    controls: Mapping[str, Control],
    what: str,
    command: str,
    remarks: Sequence[str] = (),
) -> list[Block]:
    """Build all blocks of the report.

    Args:
        summary: results of all runs.
        costs: of all variants.
        controls: size-matched controls by variant.
        what: that the controls match, `parameters` or `flops`.
        command: that makes the report, as it is pasted.
        remarks: on the data and the plan.
    """
    plan = summary.plan
    blocks: list[Block] = [Heading(1, f"Ablation {plan.name}"), *answer_blocks(summary, costs), *data_blocks(remarks)]
    blocks += [*_overview(summary), *primary_comparisons(summary)]
    blocks += [*_all_data(summary), *_curves(summary), *suite_blocks(summary)]
    for data in plan.ablation.data:
        blocks += [*_metrics(summary, data, costs), *_classes(summary, data)]
    blocks += [*_controls(summary, controls, what), *_choice(plan), *_costs(summary, costs)]
    blocks += [Heading(2, "Runs"), *describe_runs(plan, summary.results), Heading(3, "Commands")]
    blocks.append(Paragraph("The ablation, from the folder that it was started in; then each run."))
    blocks += [Code([command]), Code([plan.printed_command(run) for run in plan.runs])]
    return [*blocks, *_how_to_read(summary, count_intervals(blocks))]


def headline(summary: AblationSummary) -> str:
    """The ablation's main metric and its differences, as tables for a terminal."""
    ablation = summary.plan.ablation
    blocks: list[Block] = []
    for data in ablation.data:
        rows, found = [], verdicts(summary, data, ablation.metric)
        for v in summary.plan.variants:
            texts = ["", ""]
            if v != ablation.reference:
                verdict = found[v, ablation.reference]
                texts = [formatting.difference(summary, data, v, ablation.metric, verdict), verdict.text]
            rows.append([v, formatting.spread(summary, data, v, ablation.metric), *texts])
        blocks.append(Table([data, ablation.metric, f"difference to {ablation.reference}", "verdict"], rows))
    answer = [] if ablation.question is None else answer_text(summary)
    return "".join(f"{line}\n" for line in answer) + "\n" * bool(answer) + to_markdown(blocks)


def _overview(summary: AblationSummary) -> Iterator[Block]:
    plan, missing = summary.plan, summary.missing
    total, seeds = len(plan.runs), ", ".join(map(str, plan.ablation.seeds))
    what = "runs" if len(plan.trainings) == total else "trainings and evaluations"
    finished = f"{total - len(missing)} of {total} {what} are finished"
    yield Paragraph(f"{finished}; seeds {seeds}. Every variant is compared with {plan.ablation.reference}.")
    read = {plan.ablation.run_type.evaluated_on(run.config): None for run in plan.runs}
    if any(read):
        yield Paragraph(f"Metrics are of {'; or of '.join(filter(None, read))}.")
    for data in plan.ablation.data:
        again = next((run for run in plan.runs if run.data == data and run.trained is not None), None)
        if again is not None and again.trained is not None:
            changes = " ".join(again.overrides)
            yield Paragraph(f"{data} is every run of {again.trained.data}, evaluated again with {changes}.")
    if plan.left_out:
        yield Paragraph(f"This is a part of the ablation; left out by choice: {'; '.join(plan.left_out)}.")
    if missing:
        counted = f"{len(missing)} of {total} {what} are missing."
        yield Paragraph(f"{counted} A variant with a missing seed has no mean and no difference.", warning=True)
        yield Bullets([f"{name}: {reason}" for name, reason in missing.items()])


def _all_data(summary: AblationSummary) -> list[Block]:
    """The main metric of all variants on all data sets, where there are several."""
    ablation = summary.plan.ablation
    if len(ablation.data) < 2:
        return []
    rows, found = [], {data: verdicts(summary, data, ablation.metric) for data in ablation.data}
    for variant in summary.plan.variants:
        texts = [variant]
        for data in ablation.data:
            verdict = found[data].get((variant, ablation.reference))
            mark = "*" if verdict and verdict.is_significant else ""
            texts.append(formatting.spread(summary, data, variant, ablation.metric) + mark)
        rows.append(texts)
    text = (
        f"{ablation.metric}, mean ± standard deviation between seeds; where a chance level is stated, of those that "
        "learned, with their number in brackets where it is not all (of all, where it is 0). An asterisk marks a "
        f"significant difference to {ablation.reference} among seeds that learned, all data sets by themselves."
    )
    return [Heading(2, "All data sets"), Paragraph(text), Table(["variant", *ablation.data], rows)]


def _curves(summary: AblationSummary) -> Iterator[Block]:
    ablation, variants = summary.plan.ablation, list(summary.plan.variants)
    for number, (quantity, where) in enumerate(ablation.curves.items(), start=1):
        names = sorted(where, key=lambda name: where[name])
        rows = [(v, [summary.spread(name, v, ablation.metric) for name in names]) for v in variants]
        figure = figures.plot_curves(rows, [where[name] for name in names], ablation.metric, quantity)
        caption = f"{ablation.metric} over {quantity}; every seed is a point, hollow where it has not learned; "
        caption += "lines and bars are the mean and standard deviation of the seeds that learned."
        if any(spread is None for _, spreads in rows for spread in spreads):
            caption += " A gap is missing."
        yield Figure(f"curve-{number}.png", caption, to_png(figure))


def _metrics(summary: AblationSummary, data: str, costs: MeasuredCosts | None) -> list[Block]:
    ablation, variants = summary.plan.ablation, list(summary.plan.variants)
    metric = ablation.metric
    columns = list(dict.fromkeys([metric, *ablation.run_type.columns]))
    values = [[v, *(formatting.spread(summary, data, v, column) for column in columns)] for v in variants]
    blocks = [
        Heading(2, f"Metrics on {data}"),
        *seed_blocks(summary, data),
        Paragraph(f"Mean ± standard deviation between seeds{_of_learned(summary, data)}{_on_images(summary, data)}."),
        Table(["variant", *columns], values),
        *difference_blocks(summary, data),
    ]
    found = [(v, summary.spread(data, v, metric), cost_of(summary.plan, costs, data, v)) for v in variants]
    scatter = figures.plot_costs(found, metric, f"{metric} on {data} over costs")
    if scatter is not None:
        name = f"costs-{data}.png"
        blocks.append(Figure(name, f"{metric} on {data} over the costs of each variant.", to_png(scatter)))
    return [*blocks, *_learning_curves(summary, data)]


def _learning_curves(summary: AblationSummary, data: str) -> list[Block]:
    plan, metric = summary.plan, summary.plan.ablation.metric
    # Of finished runs and those on their way: what other settings or other data left has no place among them.
    other = {name for name, reason in summary.missing.items() if reason.startswith(("stale", "corrupt"))}
    curves = {
        v: [read_curve(run.folder, metric) for run in plan.of(data, v) if run.name not in other] for v in plan.variants
    }
    figure = plot_learning(curves, metric, f"{metric} on {data} while training")
    if figure is None:
        return []
    caption = (
        f"{metric} on the validation images of {data} after each evaluated epoch: the mean of the seeds of a variant"
    )
    return [Figure(f"learning-{data}.png", f"{caption}, and each seed as a pale line.", to_png(figure))]


def _of_learned(summary: AblationSummary, data: str) -> str:
    if summary.learning(data, summary.plan.ablation.metric) is None:
        return ""
    return " that learned, with their number where it is not all (of all seeds, where it is 0)"


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
    differences = []
    for n in names:
        verdict = verdicts(summary, data, f"{metric}/{n}")
        texts = (
            formatting.difference(summary, data, v, f"{metric}/{n}", verdict[v, ablation.reference]) for v in others
        )
        differences.append([n, *texts])
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
        found = []
        for data in ablation.data:
            verdict = verdicts(summary, data, ablation.metric)[variant, control.name]
            found.append(formatting.difference(summary, data, variant, ablation.metric, verdict, control.name))
        sizes = [f"{control.target:,}", f"{control.size:,} ({off:+.1%})"]
        rows.append([variant, control.name, *sizes, *found])
    reference = ablation.reference
    text = (
        f"{reference}, made wider until it has as many {what} as the variant: the effect of more {what} alone. "
        f"Differences of {ablation.metric}, variant − control. A variant that is no larger than {reference}, or by "
        "less than a step in width, has none."
    )
    head = ["variant", "control", what, f"{what} of the control", *ablation.data]
    return [Heading(2, f"Controls with equal {what}"), Paragraph(text), Table(head, rows)]


def _choice(plan: Plan) -> list[Block]:
    """List the options of each variant, how they did, and which was chosen."""
    if not plan.chosen:
        return []
    metric, options = plan.ablation.metric, dict.fromkeys(o for chosen in plan.chosen.values() for o in chosen.means)
    rows = []
    for variant in plan.variants:
        if variant in plan.chosen:
            chosen = plan.chosen[variant]
            means = [f"{chosen.means[o]:.3f}" if o in chosen.means else "" for o in options]
            rows.append([variant, chosen.option, *means])
    fixed = [variant for variant in plan.variants if variant not in plan.chosen]
    tries = len(next(iter(plan.chosen.values())).means)
    text = (
        f"Each had {tries} options, and was given the one with the highest mean {metric} before the first run of this "
        "ablation, with other seeds: see `choice/report.html`."
    )
    text += f" Nothing was chosen for {', '.join(fixed)}." if fixed else ""
    return [Heading(2, "Choice of settings"), Paragraph(text), Table(["variant", "chosen", *options], rows)]


def _costs(summary: AblationSummary, costs: MeasuredCosts | None) -> Iterator[Block]:
    yield Heading(2, "Costs")
    if costs is None:
        yield Paragraph("Not measured.", warning=True)
        return
    ablation = summary.plan.ablation
    for data in summary.plan.trained_data:
        reference = cost_of(summary.plan, costs, data, ablation.reference)
        found = [(v, cost_of(summary.plan, costs, data, v)) for v in summary.plan.variants]
        rows = [[v, *formatting.cost(cost, reference)] for v, cost in found]
        yield Table([f"on {data}", *formatting.COST_COLUMNS], rows)
    yield Paragraph(
        f"Measured on {costs.machine}: medians of {costs.rounds} rounds, in each of which every architecture has its "
        "turn, at random weights, on the first images of its data. × is relative to the reference. FLOPs are of one "
        "image, a multiply-add counts twice; a training step is one batch forward and backward with the optimizer's "
        "step, never compiled; inference is of one image. Memory is the peak beyond weights, gradients and inputs that "
        "were allocated before."
    )
    if costs.failures:
        yield Bullets([f"not measured: {reason}" for reason in costs.failures.values()])


def count_intervals(blocks: Sequence[Block]) -> int:
    """Count the intervals that tables show, but for those of too few images."""
    tables = [block for block in blocks if isinstance(block, Table)]
    cells = (cell for table in tables for row in table.rows for cell in row[1:] if TOO_FEW not in cell)
    return sum(len(_INTERVAL.findall(cell)) for cell in cells)


def _how_to_read(summary: AblationSummary, shown: int) -> list[Block]:
    about = (
        "Intervals of differences cover both seeds and images: differences are taken seed by seed, their variance is "
        "that of single trainings, and the effect of the validation images on all seeds alike is found by "
        f"bootstrapping the images {RESAMPLINGS} times, the same for both variants; the sum of both variances gives a "
        "Student's t interval."
        if len(summary.plan.ablation.seeds) > 1
        else f"There is one seed: intervals come from bootstrapping the validation images {RESAMPLINGS} times. They "
        "are about these trained networks on other images, not about another seed."
    )
    chance = (
        f"The tables above show {shown} intervals. If each covers what it names 95 % of the time, {0.05 * shown:.3g} "
        "of them miss it by chance, on average."
    )
    missing = (
        "A value with a missing seed is missing here; “n/a” is a metric that its data does not define, and “no "
        "interval” a difference that too few images decide, as of a class with one object. “Too few images” follows an "
        "interval of a metric that some resamplings do not define, as of a class that up to about seven images have: "
        "it is too narrow, and carries no verdict."
    )
    return [Heading(2, "How to read this"), Bullets([about, chance, missing])]
