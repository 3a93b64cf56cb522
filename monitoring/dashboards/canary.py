"""Releases: the arms side by side, the judge, the weights."""

from grafana_foundation_sdk.builders.dashboard import Dashboard

from monitoring.dashboards.parts import RATE, Query, S, W, graph, number, page

_BY_ARM = 'model=~"$model",arm!~"none|pinned"'


def dashboard() -> Dashboard:
    duration = f"driftwheel_request_duration_seconds_bucket{{{S}}}"
    p99 = f"histogram_quantile(0.99, sum by (model, arm, le) (rate({duration}{RATE})))"
    return page(
        "driftwheel-canary",
        "canary",
        "The version in service and those on trial, beside each other.",
        ("DriftwheelCanaryErrors", "DriftwheelCanaryAborted", "DriftwheelCanaryStuck", "DriftwheelRolloutNotFollowed"),
        [
            (
                "Trial",
                [
                    number("In service", "none", Query(f"driftwheel_stable_version{{{W}}}", "{{model}}")),
                    number(
                        "On trial", "none", Query(f"driftwheel_candidate_version{{{W}}}", "{{model}}"), about="0: none."
                    ),
                    number("Its share", "percentunit", Query(f"driftwheel_rollout_weight{{{W}}}", "{{model}}")),
                    number("Newest verdict", "none", Query(f"driftwheel_judge_state{{{W}}}", "{{model}} {{decision}}")),
                ],
            ),
            (
                "Arms",
                [
                    graph(
                        "Requests",
                        "reqps",
                        Query(f"model_arm:driftwheel_requests:rate10m{{{_BY_ARM}}}", "{{model}} {{arm}}"),
                    ),
                    graph(
                        "Share of faults",
                        "percentunit",
                        Query(f"model_arm:driftwheel_errors:ratio10m{{{_BY_ARM}}}", "{{model}} {{arm}}"),
                    ),
                    graph("p99", "s", Query(p99, "{{model}} {{arm}}")),
                    graph(
                        "Loss of labelled predictions",
                        "none",
                        Query(f'driftwheel_quality_loss{{{W},arm!="all"}}', "{{model}} {{arm}} version {{version}}"),
                        about="As the judge last saw it: squared error, or Brier score.",
                    ),
                ],
            ),
            (
                "Judge",
                [
                    graph("Verdicts", "short", Query(f"driftwheel_verdicts_total{{{W}}}", "{{model}} {{decision}}")),
                    graph(
                        "Since the judge looked",
                        "s",
                        Query(f"time() - driftwheel_verdict_last_timestamp_seconds{{{W}}}", "{{model}}"),
                    ),
                    graph(
                        "Weight: rollout and server",
                        "percentunit",
                        Query(f"driftwheel_rollout_weight{{{W}}}", "{{model}} rollout"),
                        Query(f"driftwheel_candidate_weight{{{S}}}", "{{model}} server"),
                    ),
                    graph(
                        "Loaded",
                        "short",
                        Query(f"driftwheel_model_version_loaded{{{S}}}", "{{model}} {{version}} {{arm}}"),
                    ),
                ],
            ),
        ],
    )
