"""The report for people: Evidently's view of reference and newest rows under the decision that we took ourselves."""

import json
import re
import warnings
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from driftwheel.files import write_atomically
from driftwheel.predictions import INPUT_PREFIX, OUTPUT_PREFIX
from monitoring.drift.columns import PopularityBins, as_numbers, indices, is_missing
from monitoring.drift.decision import DriftDecision
from monitoring.drift.reference import Reference

if TYPE_CHECKING:
    import pandas as pd

MAX_ROWS = 20_000
"""Rows of either side that Evidently gets; its pictures do not change beyond, its time does."""

_REPORT = re.compile(r".+-[0-9]+-[0-9]{8}T[0-9]+\.(html|json)")
"""What ``write_report`` calls them."""

_PAGE = """
<section style="font: 15px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 1.5rem auto; padding: 0 1rem">
<h1 style="font-size: 1.6rem">{title}</h1>
<p><strong>{summary}</strong></p>
<p>{details}</p>
<div style="overflow-x: auto"><table style="border-collapse: collapse; width: 100%">
<caption style="text-align: left; padding: .5rem 0">Monitors, with thresholds calibrated on the reference</caption>
<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>
<p>Below is Evidently's view of the same rows. Its own marks use one fixed threshold for every column; the decision above
does not. Ids are shown by popularity and by whether the model knows them.</p>
</section>
"""
_CELL = "padding: .25rem .75rem .25rem 0; border-bottom: 1px solid #ccc; text-align: left; vertical-align: top"


def write_report(
    reports: Path, reference: Reference, window: "pd.DataFrame", decision: DriftDecision, *, now: str, seed: int
) -> tuple[Path, Path]:
    """Write ``<reports>/<model>-<version>-<now>.html`` and ``.json``, each whole or not at all.

    The page needs nothing from the network. The JSON has ours under "decision" and Evidently's under "evidently".

    Args:
        window: The newest rows, under the log's column names.
        seed: Draws the rows that are shown, where there are more than ``MAX_ROWS``.
    """
    before, after, left_out = _tables(reference, window, seed)
    page, evidently = _run_evidently(before, after)
    header = _header(reference, decision, left_out, rows=len(window), now=now)
    name = f"{reference.manifest.name}-{reference.manifest.version}-{re.sub(r'[^0-9A-Za-z]+', '', now)}"
    html, data = (reports / f"{name}{suffix}" for suffix in (".html", ".json"))
    title = f"<title>{escape(_title(reference))}</title>"
    write_atomically(html, page.replace("<head>", f"<head>{title}", 1).replace("<body>", f"<body>{header}", 1).encode())
    content = {"decision": msgspec.to_builtins(decision), "left_out": left_out, "evidently": evidently}
    write_atomically(data, msgspec.json.format(msgspec.json.encode(content)))
    return html, data


def expire_reports(reports: Path, keep: int) -> None:
    """Delete a model's oldest reports until ``keep`` are left; other files stay."""
    names = {path.stem for path in reports.iterdir() if _REPORT.fullmatch(path.name)}
    for name in sorted(names, key=lambda name: name.rpartition("-")[2])[:-keep]:
        for suffix in (".html", ".json"):
            (reports / f"{name}{suffix}").unlink(missing_ok=True)


def _title(reference: Reference) -> str:
    return f"Drift of {reference.manifest.name}, version {reference.manifest.version}"


def _tables(
    reference: Reference, window: "pd.DataFrame", seed: int
) -> tuple["pd.DataFrame", "pd.DataFrame", list[str]]:
    """Both sides with columns that mean something to a person, and the names of those that hold nothing.

    Popularity is defined on one half of the reference, and the other half is what is shown.
    """
    shuffled = np.random.default_rng(seed).permutation(len(reference.frame))
    middle = len(shuffled) // 2
    defining, shown = (reference.frame.iloc[part] for part in (shuffled[:middle], shuffled[middle:]))
    before = _readable(shown.head(MAX_ROWS), reference, defining)
    after = _readable(window.sample(min(len(window), MAX_ROWS), random_state=seed), reference, defining)
    # Evidently raises on columns without a value.
    usable = [name for name in before if name in after and before[name].notna().any() and after[name].notna().any()]
    return before[usable], after[usable], sorted({*before.columns, *after.columns} - set(usable))


def _readable(table: "pd.DataFrame", reference: Reference, defining: "pd.DataFrame") -> "pd.DataFrame":
    import pandas as pd

    columns: dict[str, Any] = {}
    for spec in reference.signature.inputs:
        name = INPUT_PREFIX + spec.name
        if name not in table.columns:
            continue
        if spec.role == "id":
            known = indices(table[name], reference.vocabularies[spec.name]) >= 0
            columns[f"{spec.name} known"] = np.where(known, "known", "unknown")
            if spec.name != reference.signature.key_input:  # which users come is chance
                popularity = PopularityBins.of(defining[name]).assign(table[name])
                columns[f"{spec.name} popularity (0: most popular)"] = popularity
        elif spec.role == "number":
            columns[spec.name] = as_numbers(table[name]).astype(np.float64)
        else:
            columns[spec.name] = table[name].astype(object).mask(is_missing(table[name], number=False)).to_numpy()
    for output in reference.signature.outputs:
        if (name := OUTPUT_PREFIX + output.name) in table.columns:
            columns[f"prediction {output.name}"] = as_numbers(table[name]).astype(np.float64)
    if "label" in table.columns:
        columns[f"label {reference.signature.label}"] = as_numbers(table["label"]).astype(np.float64)
    return pd.DataFrame(columns)


def _run_evidently(before: "pd.DataFrame", after: "pd.DataFrame") -> tuple[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Evidently and what it imports use deprecated parts of NumPy and Litestar
        from evidently import DataDefinition, Dataset, Report
        from evidently.presets import DataDriftPreset

        numbers = [str(name) for name in before.select_dtypes("number").columns]
        definition = DataDefinition(
            numerical_columns=numbers,
            categorical_columns=[str(name) for name in before.columns if name not in numbers],
        )
        current, reference = (Dataset.from_pandas(side, data_definition=definition) for side in (after, before))
        preset = DataDriftPreset(
            num_method="jensenshannon",
            cat_method="jensenshannon",
            drift_share=1 / max(before.shape[1], 1),  # one column is enough; by default half of them must drift
        )
        report = Report([preset], include_tests=True)
        snapshot = report.run(current, reference)
        return snapshot.get_html_str(as_iframe=False), json.loads(snapshot.json())


def _header(reference: Reference, decision: DriftDecision, left_out: list[str], *, rows: int, now: str) -> str:
    details = [f"{now}; {decision.windows} windows, {rows} rows; reference of {len(reference.frame)} rows."]
    if left_out:
        details.append(f"Columns without values on one side: {', '.join(left_out)}.")
    titles = ("Monitor", "Drifts", "Windows that alarm", "Distance", "p-value", "What changed")
    lines = [
        (
            outcome.monitor,
            "yes" if outcome.drifted else "no",
            f"{outcome.alarms} of {outcome.windows}",
            f"{outcome.statistic:.4f}",
            f"{outcome.p_value:.2g}",
            outcome.why,
        )
        for outcome in decision.outcomes
    ]
    return _PAGE.format(
        title=escape(_title(reference)),
        summary=escape(decision.summary),
        details=escape(" ".join(details)),
        head="".join(f'<th scope="col" style="{_CELL}">{title}</th>' for title in titles),
        body="".join(f"<tr>{''.join(_cell(text) for text in line)}</tr>" for line in lines),
    )


def _cell(text: str) -> str:
    return f'<td style="{_CELL}">{escape(text)}</td>'
