"""Drift and quality."""

from grafana_foundation_sdk.builders.dashboard import Dashboard

from monitoring.dashboards.parts import Query, W, graph, number, page, per_second

_MONITOR = "{{model}} {{monitor}}"


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
        ],
    )  # fmt: skip
