"""The steps of a version's way in as a pipeline: for Kubeflow Pipelines, and on this machine."""
