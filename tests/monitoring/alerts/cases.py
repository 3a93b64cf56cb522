"""For every alert, series that make it fire and series that must not, in promtool's words.

``1+2x60`` is 1, 3, 5 and so on, 61 of them. Where windows are long, samples and evaluations are rarer: promtool evaluates
every rule each time.
"""

from dataclasses import dataclass, field

SERVER = 'job="driftwheel",instance="a:8080"'
WATCHER = 'job="driftwheel-watcher",instance="a:9108",model="mf"'

Series = dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Case:
    """``fires`` and ``quiet``: each a world of series at whose time ``at`` the alert fires, or does not."""

    alert: str
    fires: Series
    quiet: tuple[Series, ...]
    at: str = "30m"
    step: str = "1m"
    """Between two samples, and between two evaluations."""
    labels: dict[str, str] = field(default_factory=dict[str, str])


def server(name: str, **labels: str) -> str:
    more = "".join(f',{key}="{value}"' for key, value in labels.items())
    return f"{name}{{{SERVER}{more}}}"


def watcher(name: str, **labels: str) -> str:
    more = "".join(f',{key}="{value}"' for key, value in labels.items())
    return f"{name}{{{WATCHER}{more}}}"


def requests(good: str, bad: str, code: str = "INTERNAL", arm: str = "stable") -> Series:
    name, labels = "driftwheel_requests_total", {"model": "mf", "version": "1", "arm": arm, "protocol": "grpc"}
    return {server(name, **labels, code="OK"): good, server(name, **labels, code=code): bad}


def latency(fast: str, all_: str, arm: str = "stable") -> Series:
    name, labels = "driftwheel_request_duration_seconds", {"model": "mf", "version": "1", "arm": arm}
    return {
        server(f"{name}_bucket", **labels, le="0.05"): fast,
        server(f"{name}_bucket", **labels, le="+Inf"): all_,
        server(f"{name}_count", **labels): all_,
    }


def looked_up(fresh: str, stale: str) -> Series:
    name = "driftwheel_feature_customers_total"
    return {server(name, freshness="fresh"): fresh, server(name, freshness="stale"): stale}


def queue(in_1_ms: str, in_100_ms: str) -> Series:
    name, labels = "driftwheel_queue_duration_seconds_bucket", {"model": "mf", "version": "1"}
    return {
        server(name, **labels, le="0.001"): in_1_ms,
        server(name, **labels, le="0.1"): in_100_ms,
        server(name, **labels, le="+Inf"): in_100_ms,
    }


SHED, FEEDBACK = server("driftwheel_shed_requests_total", model="mf"), server("driftwheel_feedback_total", model="mf")
DROPPED = server("driftwheel_prediction_log_dropped_rows_total", model="mf")
WANTED, STABLE = watcher("driftwheel_drift_retrain_wanted"), watcher("driftwheel_stable_version")
LOOKED = watcher("driftwheel_drift_last_success_timestamp_seconds")
START, END, DONE = (
    watcher(f"driftwheel_retrain_last_{what}_timestamp_seconds") for what in ("start", "finish", "success")
)
RUNNING, ON_TRIAL = watcher("driftwheel_retrain_running"), watcher("driftwheel_candidate_version")
ABORTS = watcher("driftwheel_verdicts_total", decision="ABORT")
STEPPED, JUDGED = (
    watcher("driftwheel_rollout_step_timestamp_seconds"),
    watcher("driftwheel_verdict_last_timestamp_seconds"),
)
SHARE, SPLIT = watcher("driftwheel_rollout_weight"), server("driftwheel_candidate_weight", model="mf")


def status(name: str) -> str:
    return watcher("driftwheel_drift_status", status=name)


def burning() -> list[Case]:
    """Each pair of windows: a budget that burns fast enough, one that burns just too slowly, one that has stopped
    burning, and one that burns with too little traffic.
    """
    # Of 1000 requests in a step so many fail, or are slow: over and under each factor's bound of 0.1 % and of 1 %.
    cases = []
    for window, steps, step, errors, slow in (
        ("1h", 60, 1, (20, 10), (200, 100)),
        ("6h", 72, 5, (8, 4), (80, 40)),
        ("1d", 144, 10, (4, 2), (40, 20)),
        ("3d", 144, 30, (1.5, 0.5), (20, 5)),
    ):
        span = steps + steps // 2
        over, under = (f"0+{rate}x{span}" for rate in errors)
        late, punctual = (f"0+{1000 - rate}x{span}" for rate in slow)
        all_, few = f"0+1000x{span}", f"0+0.5x{span}"
        stopped = f"0+{errors[0]}x{steps} {errors[0] * steps}x{steps // 2}"
        at = f"{span * step}m"
        cases += [
            Case(
                alert="DriftwheelErrorBudgetBurn",
                fires=requests(all_, over),
                quiet=(requests(all_, under), requests(few, few), requests(all_, over, "INVALID_ARGUMENT"),
                       requests(all_, stopped), requests(all_, "0") | requests("0", all_, arm="shadow")),
                at=at,
                step=f"{step}m",
                labels={"window": window},
            ),
            Case(
                alert="DriftwheelLatencyBudgetBurn",
                fires=requests(all_, "0") | latency(late, all_),
                quiet=(requests(all_, "0") | latency(punctual, all_), requests(few, "0") | latency("0", few),
                       requests(all_, "0") | latency(all_, all_) | latency("0", all_, "shadow")),
                at=at,
                step=f"{step}m",
                labels={"window": window},
            ),
        ]  # fmt: skip
    return cases


SERVICE = [
    Case(alert="DriftwheelServerDown", fires={server("up"): "0x60"}, quiet=({server("up"): "1x60"},)),
    Case(alert="DriftwheelServerMissing", fires={}, quiet=({server("up"): "0x60"},)),
    Case(
        alert="DriftwheelNotReady",
        fires={server("driftwheel_ready"): "0x60"},
        quiet=({server("driftwheel_ready"): "1x60"}, {server("driftwheel_ready"): "1x28 0 0"}),
    ),
    Case(
        alert="DriftwheelBundleLoadFailed",
        fires={server("driftwheel_bundle_load_failures_total", model="mf"): "0x20 1x20"},
        quiet=({server("driftwheel_bundle_load_failures_total", model="mf"): "3x60"},),
    ),
    Case(
        alert="DriftwheelShedding",
        fires=requests("0+100x60", "0") | {SHED: "0+5x60"},
        quiet=(requests("0+1000x60", "0") | {SHED: "0+5x60"},),
    ),
    Case(
        alert="DriftwheelQueueSlow",
        fires=requests("0+100x60", "0") | queue("0+50x60", "0+100x60"),
        quiet=(requests("0+100x60", "0") | queue("0+100x60", "0+100x60"),
               requests("0+1x60", "0") | queue("0", "0+1x60")),
    ),
    Case(
        alert="DriftwheelWorkersDown",
        fires={server("driftwheel_workers_up"): "3x60", server("driftwheel_workers"): "4x60"},
        quiet=({server("driftwheel_workers_up"): "4x60", server("driftwheel_workers"): "4x60"},),
    ),
    Case(
        alert="DriftwheelWorkersRestarting",
        fires={server("driftwheel_worker_restarts_total"): "0+1x60"},
        quiet=({server("driftwheel_worker_restarts_total"): "0x15 1x45"},),
    ),
    Case(alert="DriftwheelLogDropping", fires={DROPPED: "0x20 9x20"}, quiet=({DROPPED: "9x60"},)),
    Case(alert="DriftwheelLogDropping", fires={DROPPED: "_x20 9x20"}, quiet=({DROPPED: "0x60"},)),
    Case(
        alert="DriftwheelFeatureStoreFailing",
        fires={server("driftwheel_feature_failures_total", reason="timeout"): "0+2x60"},
        quiet=({server("driftwheel_feature_failures_total", reason="error"): "0x10 3x50"},),
    ),
    Case(
        alert="DriftwheelFeaturesStale",
        fires=looked_up(fresh="0+90x90", stale="0+10x90"),
        quiet=(looked_up(fresh="0+99x90", stale="0+1x90"), looked_up(fresh="0x90", stale="0x90")),
        at="80m",
    ),
    Case(
        alert="DriftwheelFilesRunningOut",
        fires={server("process_open_fds"): "900x60", server("process_max_fds"): "1024x60"},
        quiet=({server("process_open_fds"): "100x60", server("process_max_fds"): "1024x60"},),
    ),
    Case(
        alert="DriftwheelWatcherDown",
        fires={watcher("up"): "0x60"},
        quiet=({watcher("up"): "1x60"},),
    ),
]  # fmt: skip

WHEEL = [
    Case(alert="DriftwheelRetrainWanted", fires={WANTED: "1x60"}, quiet=({WANTED: "0x60"}, {})),
    Case(
        alert="DriftwheelRetrainBlocked",
        fires={WANTED: "1x160"},
        quiet=({WANTED: "1x140 0 1x19"},),
        at="1600m",
        step="10m",
    ),
    Case(
        alert="DriftwheelDriftFound",
        fires={status("drift"): "1x60", status("stable"): "0x60"},
        quiet=({status("drift"): "0x60", status("stable"): "1x60"},),
    ),
    Case(
        alert="DriftwheelQualityDown",
        fires={watcher("driftwheel_quality_down"): "1x60"},
        quiet=({watcher("driftwheel_quality_down"): "0x60"},),
    ),
    Case(
        alert="DriftwheelDataBroken",
        fires={status("broken data"): "1x60"},
        quiet=({status("broken data"): "0x60", status("drift"): "1x60"},),
    ),
    Case(
        alert="DriftwheelDriftJobStale",
        fires={LOOKED: "0x300", STABLE: "1x300"},
        quiet=({LOOKED: "0+600x300", STABLE: "1x300"},),
        at="3000m",
        step="10m",
    ),
    Case(alert="DriftwheelDriftJobStale", fires={STABLE: "1x100"}, quiet=({},), at="100m"),
    Case(
        alert="DriftwheelModelStale",
        # A newer one of the same name in another namespace is another home's.
        fires={watcher("driftwheel_model_created_timestamp_seconds", version="1", namespace="a"): "-2592000x100",
               watcher("driftwheel_model_created_timestamp_seconds", version="2", namespace="b"): "0x100"},
        quiet=({watcher("driftwheel_model_created_timestamp_seconds", version="1"): "-2592000x100",
                watcher("driftwheel_model_created_timestamp_seconds", version="2"): "0x100"},),
        at="100m",
    ),
    Case(
        alert="DriftwheelFeedbackMissing",
        fires=requests("0+100x160", "0") | {FEEDBACK: "7x160"},
        quiet=(requests("0+100x160", "0") | {FEEDBACK: "0+1x160"},
               requests("0+1x160", "0") | {FEEDBACK: "7x160"}),
        at="1600m",
        step="10m",
    ),
    Case(
        alert="DriftwheelRetrainFailed",
        fires={END: "900x60", DONE: "500x60"},
        quiet=({END: "900x60", DONE: "900x60"}, {START: "900x60"}),
    ),
    Case(alert="DriftwheelRetrainFailed", fires={END: "900x60"}, quiet=({},)),
    Case(
        alert="DriftwheelRetrainInterrupted",
        fires={START: "900x60", END: "500x60", RUNNING: "0x60"},
        quiet=({START: "900x60", END: "950x60", RUNNING: "0x60"}, {START: "900x60", END: "500x60", RUNNING: "1x60"}),
    ),
    Case(
        alert="DriftwheelRetrainStuck",
        fires={RUNNING: "1x200"},
        quiet=({RUNNING: "1x100 0 1x99"},),
        at="200m",
    ),
    Case(alert="DriftwheelCanaryAborted", fires={ABORTS: "0x10 1x50"}, quiet=({ABORTS: "1x60"},)),
    Case(
        alert="DriftwheelCanaryErrors",
        fires=requests("0+100x60", "0", arm="control") | requests("0+90x60", "0+10x60", arm="candidate"),
        quiet=(requests("0+100x60", "0+10x60") | requests("0+90x60", "0+10x60", arm="candidate"),
               requests("0+100x60", "0") | requests("0+0.9x60", "0+0.1x60", arm="candidate")),
    ),
    Case(
        alert="DriftwheelCanaryUnwatched",
        fires={ON_TRIAL: "2x200", JUDGED: "0x200"},
        quiet=({ON_TRIAL: "2x200", JUDGED: "0+60x200"}, {ON_TRIAL: "0x200", JUDGED: "0x200"}),
        at="200m",
    ),
    Case(
        alert="DriftwheelCanaryStuck",
        fires={ON_TRIAL: "2x160", STEPPED: "0x160"},
        quiet=({ON_TRIAL: "2x160", STEPPED: "0+600x160"}, {ON_TRIAL: "0x160", STEPPED: "0x160"}),
        at="1600m",
        step="10m",
    ),
    Case(
        alert="DriftwheelRolloutNotFollowed",
        fires={SHARE: "0.05x60", SPLIT: "0.01x60"},
        quiet=({SHARE: "0.05x60", SPLIT: "0.05x60"}, {SHARE: "0.01x28 0.05x2", SPLIT: "0.01x60"}),
    ),
    Case(  # one of two servers lags behind, and the other hides it from whoever looks at the largest alone
        alert="DriftwheelRolloutNotFollowed",
        fires={SHARE: "0.5x60", SPLIT: "0.05x60", SPLIT.replace("a:8080", "b:8080"): "0.5x60"},
        quiet=({SHARE: "0.5x60", SPLIT: "0.5x60", SPLIT.replace("a:8080", "b:8080"): "0.5x60"},),
    ),
    Case(
        alert="DriftwheelRolloutUnreadable",
        fires={watcher("driftwheel_rollout_readable"): "0x60"},
        quiet=({watcher("driftwheel_rollout_readable"): "1x60"},),
    ),
    Case(
        alert="DriftwheelBundleUnreadable",
        fires={watcher("driftwheel_bundle_readable", version="1"): "0x60"},
        quiet=({watcher("driftwheel_bundle_readable", version="1"): "1x60"},),
    ),
]  # fmt: skip

CASES = [*burning(), *SERVICE, *WHEEL]
