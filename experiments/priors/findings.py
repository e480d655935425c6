"""What the numbers say, in sentences. Nothing here is known beforehand: every word follows from the runs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from experiments.priors.table import Cell, Comparison, Table, Variant, against, corrected, more_is_better

ACCURACY, NLL, ECE = "cls/Acc", "cls/NLL", "cal/ECE"
WORDS = {ACCURACY: "accuracy", NLL: "NLL", ECE: "ECE", "cls/Brier": "Brier score", "sc/AURC": "AURC",
         "ood/AUROC": "OOD AUROC", "ood/FPR95": "OOD FPR95"}  # fmt: skip
KLEIN = Variant("klein")
# The questions: an ensemble costs five times as much as one network, so it has an opponent of its own cost too.
COMPARED = (
    ("klein", "gaussian"),
    ("klein", "deterministic"),
    ("klein", "ensemble"),
    ("klein-ensemble", "ensemble"),
)

# Atanov et al. 2019 (The deep weight prior), table of small MNIST and CIFAR-10: accuracy by training images.
PUBLISHED = {
    "mnist": {50: 0.800, 100: 0.867, 200: 0.915, 500: 0.945, 1000: 0.961},
    "cifar10": {50: 0.237, 200: 0.303, 500: 0.356},
}


def findings(table: Table) -> list[str]:
    """One sentence for each question that the runs can answer."""
    said = []
    for temperature in table.temperatures:
        for ours, opponent in COMPARED:
            found = against(table, opponent, temperature, (ACCURACY, NLL, ECE), ours)
            said += [
                sentence(list(group), temperature)
                for _, group in groupby(found_by_place(found), key=lambda c: (c.cell.dataset, c.measure))
            ]
    return [
        *said,
        *others(table),
        *residual(table),
        *start_alone(table),
        *tempering(table),
        *published(table),
    ]


def found_by_place(found: Sequence[Comparison]) -> list[Comparison]:
    return sorted(found, key=lambda c: (c.cell.dataset, list(WORDS).index(c.measure), c.cell.train_size))


def sentence(comparisons: Sequence[Comparison], temperature: str) -> str:
    """Where the first method is better than the second, where worse, where it is open."""
    first = comparisons[0]
    parts = [
        f"{verdict} at n = {', '.join(map(_with_size, chosen))}"
        for verdict in ("better", "worse", "open")
        if (chosen := [c for c in comparisons if c.verdict == verdict])
    ]
    place = f"{first.cell.dataset}, {_temperature(temperature)}, {WORDS[first.measure]}"
    return f"**{place}**: {first.first.method} against {first.second.method} is {'; '.join(parts)}."


def _with_size(comparison: Comparison) -> str:
    mean, half_width, *_ = comparison.result
    spread = "" if half_width is None else f" ± {half_width:.3f}"
    survives = comparison.adjusted_p is not None and comparison.adjusted_p < 0.05
    return f"{comparison.cell.train_size} ({mean:+.3f}{spread}{', also after Holm' if survives else ''})"


def _temperature(temperature: str) -> str:
    return "temperature tuned" if temperature == "tuned" else f"T = {temperature}"


def counted(comparisons: Sequence[Comparison]) -> str:
    """Better, worse and open in numbers."""
    counts = {v: sum(c.verdict == v for c in comparisons) for v in ("better", "worse", "open")}
    return f"better in {counts['better']}, worse in {counts['worse']}, open in {counts['open']} of {len(comparisons)} places"


def _everywhere(
    table: Table, temperature: str, first: Variant, second: Variant, measure: str
) -> list[Comparison]:
    cells = [Cell(d, n, temperature) for d in table.datasets for n in table.sizes(d)]
    found = [table.compare(cell, first, second, measure) for cell in cells]
    return corrected([c for c in found if c is not None])


def others(table: Table) -> list[str]:
    """Klein against the priors that no question of `COMPARED` is about, on the seeds that both have."""
    known = {
        KLEIN.method,
        "klein-residual",
        *(opponent for _, opponent in COMPARED),
        *(o for o, _ in COMPARED),
    }
    methods = list(dict.fromkeys(v.method for v in table.variants if v.method not in known))
    return [
        f"Against {method}, {_temperature(t)}: klein is {counted(found[0])} in accuracy, {counted(found[1])} in NLL."
        for t in table.temperatures
        for method in methods
        if all(found := [against(table, method, t, (measure,)) for measure in (ACCURACY, NLL)])
    ]


def residual(table: Table) -> list[str]:
    """Does full support (a residual beside the decoded kernel) help?"""
    return [
        f"The residual, {_temperature(t)}, {WORDS[measure]}: klein-residual against klein is {counted(found)}."
        for t in table.temperatures
        for measure in (ACCURACY, NLL)
        if (found := _everywhere(table, t, Variant("klein-residual"), KLEIN, measure))
    ]


def start_alone(table: Table) -> list[str]:
    """What is the start, what is the prior? The Gaussian from Klein draws against the one from its own."""
    said = []
    for t in table.temperatures:
        started = Variant("gaussian", "klein")
        alone = _everywhere(table, t, started, Variant("gaussian"), ACCURACY)
        prior = _everywhere(table, t, KLEIN, started, ACCURACY)
        if alone and prior:
            said.append(
                f"The start alone, {_temperature(t)}, accuracy: the Gaussian prior started from Klein draws against "
                f"from its own is {counted(alone)}; the Klein prior against that start with the Gaussian prior is "
                f"{counted(prior)}."
            )
    return said


def tempering(table: Table) -> list[str]:
    """Does a colder posterior help each prior? Seeds are paired."""
    if len(table.temperatures) < 2 or "1" not in table.temperatures:
        return []
    said = []
    for method in ("klein", "gaussian"):
        for other in (t for t in table.temperatures if t != "1"):
            gains = []
            for dataset in table.datasets:
                for size in table.sizes(dataset):
                    bayes = table.interval(Cell(dataset, size, "1"), Variant(method), NLL)
                    cold = table.interval(Cell(dataset, size, other), Variant(method), NLL)
                    if bayes and cold:
                        gains.append(bayes.mean - cold.mean)
            if gains:
                lower = sum(gain > 0 for gain in gains)
                said.append(
                    f"Tempering ({_temperature(other)}) lowers the mean NLL of {method} in {lower} of {len(gains)} places, "
                    f"by {sum(gains) / len(gains):+.3f} on average."
                )
    return said


def published(table: Table) -> list[str]:
    """Against the deep weight prior's published means (other network, 5x5 and 7x7 kernels)."""
    said = []
    for dataset in table.datasets:
        reference = next((v for name, v in PUBLISHED.items() if dataset.startswith(name)), {})
        for temperature in table.temperatures:
            pairs = []
            for size, accuracy in reference.items():
                ours = table.interval(Cell(dataset, size, temperature), KLEIN, ACCURACY)
                if ours is not None:
                    word = "above" if ours.mean > accuracy else "not above"
                    pairs.append(f"{ours.mean:.3f} {word} {accuracy:.3f} at n = {size}")
            if pairs:
                said.append(
                    f"Against the deep weight prior as published, {dataset}, {_temperature(temperature)}, "
                    f"mean accuracy: {'; '.join(pairs)}."
                )
    return said


def best_in(table: Table, cell: Cell, measure: str) -> Variant | None:
    """The method with the best mean at a place."""
    known = {v: i.mean for v in table.variants if (i := table.interval(cell, v, measure)) is not None}
    if not known:
        return None
    return (max if more_is_better(measure) else min)(known, key=known.__getitem__)
