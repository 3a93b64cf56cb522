"""Drift and quality."""

from grafana_foundation_sdk.builders.dashboard import Dashboard

from monitoring.dashboards.parts import Query, W, graph, number, page, per_second

_MONITOR = "{{model}} {{monitor}}"
_VERSION = "{{model}} version {{version}}"


def dashboard() -> Dashboard:
    return page(
        "driftwheel-drift",
        "drift and quality",
        "Is traffic what the model was tested on, and are its answers as good?",
        ("DriftwheelDataBroken", "DriftwheelQualityDown", "DriftwheelDriftFound", "DriftwheelDriftJobStale",
         "DriftwheelFeedbackMissing"),
        [
            (
                "Newest decision",
                [
                    number("Status", "none", Query(f"driftwheel_drift_status{{{W}}} == 1", "{{model}} {{status}}")),
                    number("Retrain wanted", "none", Query(f"driftwheel_drift_retrain_wanted{{{W}}}", "{{model}}")),
                    number("Quality down", "none", Query(f"driftwheel_quality_down{{{W}}}", "{{model}}")),
                    number("Made", "dateTimeFromNow", Query(f"driftwheel_drift_last_success_timestamp_seconds{{{W}}} * 1000", "{{model}}")),
                ],
            ),
            (
                "Drift",
                [
                    graph("Scores", "none", Query(f"driftwheel_drift_score{{{W}}}", _MONITOR), about="Divergence in nats, or a difference of shares."),
                    graph("p-values", "sci", Query(f"driftwheel_drift_p_value{{{W}}}", _MONITOR)),
                    graph("Monitors that drift", "none", Query(f"sum by (model, group) (driftwheel_drift_monitor_drifted{{{W}}})", "{{model}} {{group}}")),
                    graph("Decisions", "short", Query(f"driftwheel_drift_decisions_total{{{W}}}", "{{model}} {{status}}")),
                    graph(
                        "Windows",
                        "short",
                        Query(f"driftwheel_drift_windows{{{W}}}", "{{model}} windows"),
                        Query(f"driftwheel_drift_window_rows{{{W}}}", "{{model}} rows of the newest"),
                    ),
                    graph("Faults of the data", "short", Query(f"driftwheel_drift_faults{{{W}}}", "{{model}}")),
                ],
            ),
            (
                "Quality",
                [
                    graph(
                        "Realized loss",
                        "none",
                        Query(f"driftwheel_quality_loss{{{W}}}", "{{model}} version {{version}} {{arm}}"),
                        Query(f"driftwheel_quality_reference_loss{{{W}}}", "{{model}} version {{version}} held out"),
                    ),
                    graph("Labels behind it", "short", Query(f"driftwheel_quality_labels{{{W}}}", "{{model}} version {{version}} {{arm}}")),
                    graph("Feedback", "cps", Query(per_second("feedback_total"), "{{model}}")),
                ],
            ),
            (
                "Quality to be expected, before labels are there",
                [
                    graph(
                        "Expected loss",
                        "none",
                        Query(f"driftwheel_quality_estimated_loss{{{W}}}", _VERSION),
                        Query(f"driftwheel_quality_estimated_reference_loss{{{W}}}", f"{_VERSION} held out"),
                        about="Of models that answer with a probability, where it was right about the held-out rows.",
                    ),
                    graph(
                        "Expected area under the ROC curve",
                        "none",
                        Query(f"driftwheel_quality_estimated_auc{{{W}}}", _VERSION),
                        Query(f"driftwheel_quality_estimated_reference_auc{{{W}}}", f"{_VERSION} held out"),
                    ),
                    graph(
                        "What it says",
                        "none",
                        Query(f"driftwheel_quality_estimate_reliable{{{W}}}", f"{_VERSION} can be relied on"),
                        Query(f"driftwheel_quality_estimated_down{{{W}}}", f"{_VERSION} is down"),
                        about="1 or 0. It starts no retrain.",
                    ),
                ],
            ),
            (
                "Recommendations",
                [
                    graph("Coverage", "percentunit", Query(f"driftwheel_recommended_coverage{{{W}}}", _VERSION), about="The share of the catalogue in the newest lists."),
                    graph(
                        "Share of the 50 most popular items",
                        "percentunit",
                        Query(f"driftwheel_recommended_top_share{{{W}}}", f"{_VERSION} recommended"),
                        Query(f"driftwheel_recommended_reference_top_share{{{W}}}", f"{_VERSION} asked for in the reference"),
                    ),
                    graph(
                        "Lists",
                        "short",
                        Query(f"driftwheel_recommended_lists{{{W}}}", _VERSION),
                        Query(f"driftwheel_recommended_empty_lists{{{W}}}", f"{_VERSION} empty"),
                    ),
                ],
            ),
        ],
    )  # fmt: skip
