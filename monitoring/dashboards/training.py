"""Training and retraining."""

from grafana_foundation_sdk.builders.dashboard import Dashboard

from monitoring.dashboards.parts import Query, S, W, graph, number, page


def _ago(metric: str, name: str) -> Query:
    return Query(f"time() - driftwheel_retrain_last_{metric}_timestamp_seconds{{{W}}}", f"{{{{model}}}} {name}")


def dashboard() -> Dashboard:
    return page(
        "driftwheel-training",
        "training and retraining",
        "What was trained, why, and what came of it.",
        ("DriftwheelRetrainFailed", "DriftwheelRetrainBlocked", "DriftwheelRetrainStuck", "DriftwheelModelStale"),
        [
            (
                "Now",
                [
                    number("Retrain going on", "none", Query(f"driftwheel_retrain_running{{{W}}}", "{{model}}")),
                    number(
                        "Age of the newest version",
                        "s",
                        Query(
                            f"time() - max by (model) (driftwheel_model_created_timestamp_seconds{{{W}}})", "{{model}}"
                        ),
                    ),
                    number(
                        "Age of its newest row",
                        "s",
                        Query(
                            f"time() - max by (model) (driftwheel_model_data_until_timestamp_seconds{{{W}}})",
                            "{{model}}",
                        ),
                    ),
                    number(
                        "Rows learned from",
                        "short",
                        Query(f"driftwheel_model_training_rows{{{W}}}", "{{model}} {{version}}"),
                    ),
                ],
            ),
            (
                "Retrains",
                [
                    graph(
                        "By reason and outcome",
                        "short",
                        Query(f"driftwheel_retrains_total{{{W}}}", "{{model}} {{reason}}: {{outcome}}"),
                    ),
                    graph(
                        "Since the last", "s", _ago("start", "start"), _ago("finish", "end"), _ago("success", "success")
                    ),
                    graph(
                        "Time they took, together",
                        "s",
                        Query(f"driftwheel_retrain_spent_seconds_total{{{W}}}", "{{model}}"),
                    ),
                    graph(
                        "What the gate said",
                        "short",
                        Query(f"driftwheel_gate_decisions_total{{{W}}}", "{{model}} {{outcome}}"),
                    ),
                    graph(
                        "Alerts answered",
                        "short",
                        Query('driftwheel_alerts_received_total{job="driftwheel-watcher"}', "{{outcome}}"),
                    ),
                ],
            ),
            (
                "Versions",
                [
                    graph(
                        "On rows held out",
                        "none",
                        Query(f"driftwheel_model_test_metric{{{W}}}", "{{model}} {{version}} {{metric}}"),
                    ),
                    graph(
                        "Entries of the ledger",
                        "short",
                        Query(f"driftwheel_ledger_entries_total{{{W}}}", "{{model}} {{kind}}"),
                    ),
                    graph(
                        "Bundles",
                        "short",
                        Query(f"driftwheel_bundle_readable{{{W}}}", "{{model}} {{version}} readable"),
                        Query(
                            f"sum by (model) (driftwheel_bundle_load_failures_total{{{S}}}) "
                            f"or 0 * sum by (model) (driftwheel_bundle_readable{{{W}}})",
                            "{{model}} refused",
                        ),
                    ),
                ],
            ),
        ],
    )
