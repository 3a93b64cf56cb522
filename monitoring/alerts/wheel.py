"""Alerts on drift, quality, retrains and releases, from what the watcher tells."""

from monitoring.alerts.contracts import SERVER, WATCHER, Alert

_ON_TRIAL = f"driftwheel_candidate_version{{{WATCHER}}} > 0"

_DRIFT = (
    Alert(
        name="DriftwheelRetrainWanted",
        expr=f"driftwheel_drift_retrain_wanted{{{WATCHER}}} == 1",
        hold="5m",
        severity="info",
        summary="The newest drift decision about {{ $labels.model }} asks for a retrain.",
        retrains=True,
    ),
    Alert(
        name="DriftwheelRetrainBlocked",
        expr=f"driftwheel_drift_retrain_wanted{{{WATCHER}}} == 1",
        hold="1d",
        severity="ticket",
        summary="{{ $labels.model }} has wanted a retrain for a day.",
    ),
    Alert(
        name="DriftwheelDriftFound",
        expr=f'driftwheel_drift_status{{{WATCHER},status="drift"}} == 1',
        hold="0m",
        severity="info",
        summary="The traffic of {{ $labels.model }} drifts.",
    ),
    Alert(
        name="DriftwheelQualityDown",
        expr=f"driftwheel_quality_down{{{WATCHER}}} == 1",
        hold="0m",
        severity="ticket",
        summary="The loss of {{ $labels.model }} is above that of its held-out rows, beyond chance and margin.",
    ),
    Alert(
        name="DriftwheelDataBroken",
        expr=f'driftwheel_drift_status{{{WATCHER},status="broken data"}} == 1',
        hold="0m",
        severity="page",
        summary="What {{ $labels.model }} is asked is broken; nothing is learned from it.",
    ),
)

_STALENESS = (
    Alert(
        name="DriftwheelDriftJobStale",
        expr=f"time() - driftwheel_drift_last_success_timestamp_seconds{{{WATCHER}}} > 2 * 86400 or "
        f"driftwheel_stable_version{{{WATCHER}}} unless on (model) "
        f"driftwheel_drift_last_success_timestamp_seconds{{{WATCHER}}}",
        hold="1h",
        severity="ticket",
        summary="Nobody has looked for drift in the traffic of {{ $labels.model }} for two days.",
    ),
    Alert(
        name="DriftwheelModelStale",
        expr=f"time() - max by (namespace, model) (driftwheel_model_created_timestamp_seconds{{{WATCHER}}}) > 30 * 86400",
        hold="1h",
        severity="ticket",
        summary="The newest version of {{ $labels.model }} is {{ $value | humanizeDuration }} old.",
        retrains=True,
    ),
    Alert(
        name="DriftwheelFeedbackMissing",
        expr="model:driftwheel_requests:rate1d * 86400 >= 1000 unless on (model) "
        f"sum by (model) (increase(driftwheel_feedback_total{{{SERVER}}}[1d])) > 0",
        hold="1h",
        severity="ticket",
        summary="{{ $labels.model }} is asked, and no label has come for a day: nobody can tell its quality.",
    ),
)

_RETRAINS = (
    Alert(
        name="DriftwheelRetrainFailed",
        expr=f"driftwheel_retrain_last_finish_timestamp_seconds{{{WATCHER}}} > on (model) "
        f"(driftwheel_retrain_last_success_timestamp_seconds{{{WATCHER}}} or on (model) "
        f"0 * driftwheel_retrain_last_finish_timestamp_seconds{{{WATCHER}}})",
        hold="0m",
        severity="ticket",
        summary="The newest retrain of {{ $labels.model }} failed; the version in service goes on.",
    ),
    Alert(
        name="DriftwheelRetrainInterrupted",
        expr=f"driftwheel_retrain_last_start_timestamp_seconds{{{WATCHER}}} > on (model) "
        f"(driftwheel_retrain_last_finish_timestamp_seconds{{{WATCHER}}} or on (model) "
        f"0 * driftwheel_retrain_last_start_timestamp_seconds{{{WATCHER}}}) "
        f"and on (model) driftwheel_retrain_running{{{WATCHER}}} == 0",
        hold="15m",
        severity="ticket",
        summary="A retrain of {{ $labels.model }} was killed, and none has taken it up.",
    ),
    Alert(
        name="DriftwheelRetrainStuck",
        expr=f"driftwheel_retrain_running{{{WATCHER}}} == 1",
        hold="3h",
        severity="ticket",
        summary="A retrain of {{ $labels.model }} has been going on for three hours.",
    ),
)

_RELEASES = (
    Alert(
        name="DriftwheelCanaryAborted",
        expr=f'increase(driftwheel_verdicts_total{{{WATCHER},decision="ABORT"}}[1h]) > 0',
        hold="0m",
        severity="ticket",
        summary="The judge aborted a candidate of {{ $labels.model }}.",
    ),
    Alert(
        name="DriftwheelCanaryErrors",
        expr='model_arm:driftwheel_errors:ratio10m{arm="candidate"} > on (model) '
        "(2 * model:driftwheel_errors_in_service:ratio10m + 0.01) "
        'and on (model) model_arm:driftwheel_requests:rate10m{arm="candidate"} * 600 >= 100',
        hold="2m",
        severity="page",
        summary="{{ $labels.model }}: {{ $value | humanizePercentage }} of what the candidate is asked fails, "
        "far more than of what the version in service is asked.",
    ),
    Alert(
        name="DriftwheelCanaryUnwatched",
        expr=f"{_ON_TRIAL} unless on (model) time() - driftwheel_verdict_last_timestamp_seconds{{{WATCHER}}} < 3600",
        hold="1h",
        severity="ticket",
        summary="Version {{ $value }} of {{ $labels.model }} is on trial, and the judge has not looked for an hour.",
    ),
    Alert(
        name="DriftwheelCanaryStuck",
        expr=f"time() - driftwheel_rollout_step_timestamp_seconds{{{WATCHER}}} > 86400 and on (model) ({_ON_TRIAL})",
        hold="1h",
        severity="ticket",
        summary="The candidate of {{ $labels.model }} has been at the same step for {{ $value | humanizeDuration }}.",
    ),
    Alert(
        name="DriftwheelRolloutNotFollowed",
        expr=f"driftwheel_candidate_weight{{{SERVER}}} != on (model) group_left "
        f"max by (model) (driftwheel_rollout_weight{{{WATCHER}}})",
        hold="5m",
        severity="page",
        summary="{{ $labels.instance }} splits the traffic of {{ $labels.model }} at {{ $value }}, "
        "and the rollout says otherwise.",
    ),
    Alert(
        name="DriftwheelRolloutUnreadable",
        expr=f"driftwheel_rollout_readable{{{WATCHER}}} == 0",
        hold="5m",
        severity="page",
        summary="The rollout file of {{ $labels.model }} cannot be read: servers keep what they have, and one that starts "
        "now does not serve the model.",
    ),
    Alert(
        name="DriftwheelBundleUnreadable",
        expr=f"driftwheel_bundle_readable{{{WATCHER}}} == 0",
        hold="5m",
        severity="page",
        summary="The bundle of version {{ $labels.version }} of {{ $labels.model }} cannot be read: "
        "a server that starts now cannot load it.",
    ),
)

ALERTS = (*_DRIFT, *_STALENESS, *_RETRAINS, *_RELEASES)
