"""The components: what Kubeflow runs. Each calls one of ``steps`` and turns what it says into typed artifacts.

Kubeflow takes the source of each function and runs it by itself, in an image that has this project: so all imports are inside,
and what is told to the next step is a parameter or an artifact.
"""

# pyright: reportInvalidTypeForm=false, reportUntypedFunctionDecorator=false
# (kfp reads calls of NamedTuple in annotations, and has no types of its own)

from typing import Any, NamedTuple

from kfp import dsl

IMAGE = "driftwheel-training:0.1.0"


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def prepare(
    home: str,
    model: str,
    sources: str,
    estimator: str,
    learn: bool,
    store: str,
    service: str,
    data: dsl.Output[dsl.Dataset],
    plan: dsl.Output[dsl.Markdown],
) -> NamedTuple("Prepared", [("fingerprint", str), ("job", str)]):
    """Prepare the tables: clean, split, and compute features and vocabularies."""
    from driftwheel.pipelines import steps
    from driftwheel.pipelines.deployment import check_target
    from driftwheel.pipelines.evidence import plan_page
    from driftwheel.pipelines.running import begin, keep_file, keep_text
    from training.data.dataset import DESCRIPTION

    check_target(store, service)
    settings, reporter = begin(home)
    named = steps.sources_from(settings, sources)
    prepared = steps.prepare(settings, model, reporter, sources=named, estimator=estimator or None, learn=learn)
    dataset = prepared.dataset
    keep_file(dataset.path(DESCRIPTION), data.path)  # the tables, which may be large, stay in the home
    data.metadata.update(fingerprint=dataset.fingerprint, source=dataset.source, rows=dataset.rows)
    keep_text(plan_page(prepared.plan), plan.path)
    return dataset.fingerprint, prepared.job


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def train(
    home: str,
    model: str,
    fingerprint: str,
    job: str,
    estimator: str,
    learn: bool,
    train_job: bool,
    trained: dsl.Output[dsl.Model],
    report: dsl.Output[dsl.HTML],
) -> NamedTuple("Trained", [("version", int)]):
    """Train under torchrun, here or in a TrainJob; put the run on record, and register the version."""
    from driftwheel.pipelines import steps
    from driftwheel.pipelines.running import begin, keep_file, keep_folder
    from driftwheel.pipelines.train_job import train_elsewhere

    settings, reporter = begin(home)
    what: dict[str, Any] = {"fingerprint": fingerprint, "job": job, "estimator": estimator or None}
    if train_job:
        train_elsewhere(settings, model, reporter, learn=learn, **what)
    made = steps.train(settings, model, reporter, **what)
    keep_folder(made.shipped.folder, trained.path)
    trained.metadata.update(job=made.shipped.key, version=made.version, run_id=made.run_id)
    if made.report is not None:
        keep_file(made.report, report.path)
    return (made.version,)


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def evaluate(
    home: str,
    model: str,
    version: int,
    fingerprint: str,
    trained: dsl.Input[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    classification: dsl.Output[dsl.ClassificationMetrics],
    comparison: dsl.Output[dsl.Markdown],
) -> None:
    """Measure the version and the one in service on rows that neither has learned from."""
    from driftwheel.pipelines import steps
    from driftwheel.pipelines.evidence import evaluation_page, question, roc_curve
    from driftwheel.pipelines.running import begin, keep_text, trained_in, write_champion

    settings, _ = begin(home)
    evaluation = steps.evaluate(settings, model, version, trained_in(trained.path), fingerprint)
    write_champion(evaluation.champion, metrics.path)
    metrics.metadata.update(evaluation.metrics)
    asked = question(evaluation.answers, evaluation.metrics)
    curve = roc_curve(asked.score, asked.positive)
    classification.log_roc_curve(curve.false_positive_rate, curve.true_positive_rate, curve.threshold)
    classification.log_confusion_matrix(list(asked.categories), asked.confusion())
    keep_text(evaluation_page(model, version, evaluation), comparison.path)


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def gate(
    home: str,
    model: str,
    version: int,
    fingerprint: str,
    trained: dsl.Input[dsl.Model],
    metrics: dsl.Input[dsl.Metrics],
    verdict: dsl.Output[dsl.Markdown],
) -> NamedTuple("Judged", [("passed", bool), ("reasons", str)]):
    """Judge the version by its metrics and by those of the version in service."""
    from driftwheel.pipelines import steps
    from driftwheel.pipelines.evidence import gate_page
    from driftwheel.pipelines.running import begin, keep_text, read_champion, trained_in

    settings, reporter = begin(home)
    champion = read_champion(metrics.path)
    candidate = trained_in(trained.path)
    judged = steps.gate(settings, model, version, candidate, champion, reporter, fingerprint=fingerprint)
    keep_text(gate_page(model, version, judged), verdict.path)
    return judged.passed, "; ".join(judged.reasons)


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def export(
    home: str,
    model: str,
    version: int,
    fingerprint: str,
    passed: bool,
    trained: dsl.Input[dsl.Model],
    bundle: dsl.Output[dsl.Model],
) -> None:
    """Export the version to ONNX and TorchScript, prove the graphs, and write its bundle; nothing of one that was refused."""
    from driftwheel.pipelines import steps
    from driftwheel.pipelines.running import begin, keep_folder, trained_in

    settings, reporter = begin(home)
    if not passed:
        reporter.note(f"version {version} of {model} was refused: nothing is exported")
        return
    written = steps.export(settings, model, version, trained_in(trained.path), reporter, fingerprint=fingerprint)
    keep_folder(written.folder, bundle.path)
    bundle.framework = "onnx"
    bundle.metadata.update(name=model, version=version, task=written.manifest.task)


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def deploy(
    home: str,
    model: str,
    version: int,
    passed: bool,
    store: str,
    service: str,
    bundle: dsl.Input[dsl.Model],
) -> NamedTuple("Deployed", [("entry", str)]):
    """Let the version in, publish it to the store, and roll it out to KServe; nothing of one that was refused."""
    from driftwheel.pipelines.deployment import deploy_version
    from driftwheel.pipelines.running import begin

    del bundle  # what is deployed lies in the home; this shows whoever looks at the run what it was
    settings, reporter = begin(home)
    if not passed:
        reporter.note(f"version {version} of {model} was refused: nothing is deployed")
        return ("refused",)
    return (deploy_version(settings, model, version, reporter, store=store, service=service),)
