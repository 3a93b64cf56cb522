"""What the drift job tells and starts nothing by, for Prometheus: quality that is to be expected before any label is there, and
what is being recommended. Entries of older releases have neither.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric

_OF = ["model", "version"]

Decisions = Iterable[tuple[str, dict[str, Any]]]
"""A model and the payload of its newest drift decision."""


def expected_quality(decisions: Decisions) -> Iterator[Metric]:
    """Of the newest window of a model that answers with a probability. Where its probabilities were not right about the
    reference, what they say cannot be relied on: then it is only told that it cannot.
    """
    reliable = _gauge(
        "quality_estimate_reliable", "1 if the version's probabilities are right about its held-out rows."
    )
    loss = _gauge("quality_estimated_loss", "Mean loss to be expected by the version's own probabilities.")
    reference_loss = _gauge("quality_estimated_reference_loss", "The same of the version's held-out rows.")
    auc = _gauge("quality_estimated_auc", "Area under the ROC curve to be expected by the same.")
    reference_auc = _gauge("quality_estimated_reference_auc", "The same of the version's held-out rows.")
    down = _gauge("quality_estimated_down", "1 if the newest drift decision says so.")
    for model, payload in decisions:
        found = next((one for window in reversed(payload["windows"]) if (one := window.get("estimated"))), None)
        if found is None:
            continue
        of, known = [model, str(payload["version"])], found["outcome"] != "not calibrated"
        reliable.add_metric(of, known)
        down.add_metric(of, payload["decision"].get("estimated_down", False))
        for family, value in (
            (loss, found["window_loss"]),
            (reference_loss, found["reference_loss"]),
            (auc, found["window_auc"]),
            (reference_auc, found["reference_auc"]),
        ):
            if known and value is not None:
                family.add_metric(of, value)
    yield from (reliable, loss, reference_loss, auc, reference_auc, down)


def recommendations(decisions: Decisions) -> Iterator[Metric]:
    """Of the newest lists of a model that recommends."""
    families = {
        "lists": _gauge("recommended_lists", "The newest recommended lists, which the shares are about."),
        "empty_lists": _gauge("recommended_empty_lists", "Those of them that are empty."),
        "coverage": _gauge("recommended_coverage", "The share of the items known which stand in any of the lists."),
        "top_share": _gauge(
            "recommended_top_share", "The share of what they hold that is among the 50 items most asked for."
        ),
        "asked_top_share": _gauge(
            "recommended_reference_top_share", "The share of the reference's rows that are about these 50."
        ),
    }
    for model, payload in decisions:
        if (lists := payload.get("recommended")) is not None:
            for name, family in families.items():
                family.add_metric([model, str(payload["version"])], lists[name])
    yield from families.values()


def _gauge(name: str, what: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"driftwheel_{name}", what, labels=_OF)
