"""The Kubernetes API as pipelines' steps and retrains see it: the objects that they may make, read and change."""

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from driftwheel.errors import ConfigurationError, DriftwheelError, NotFoundError
from driftwheel.names import check_name

_OWN_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
"""Where a pod finds the namespace that it runs in."""

_CALL_TIMEOUT_S = 30.0

Object = dict[str, Any]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of object, as paths of the API have it; Kubernetes' oldest kinds are of no group."""

    group: str
    version: str
    plural: str

    def path(self, namespace: str) -> str:
        """Where the objects of a namespace are."""
        api = f"/apis/{self.group}" if self.group else "/api"
        return f"{api}/{self.version}/namespaces/{namespace}/{self.plural}"


TRAIN_JOBS = Kind("trainer.kubeflow.org", "v1alpha1", "trainjobs")
INFERENCE_SERVICES = Kind("serving.kserve.io", "v1beta1", "inferenceservices")
DEPLOYMENTS = Kind("apps", "v1", "deployments")
CONFIG_MAPS = Kind("", "v1", "configmaps")
JOBS = Kind("batch", "v1", "jobs")
CRON_JOBS = Kind("batch", "v1", "cronjobs")
PODS = Kind("", "v1", "pods")


class _ExistsError(DriftwheelError):
    """An object of that name is there already."""


class Cluster:
    """Objects of one namespace.

    Args:
        client: A ``kubernetes.client.ApiClient``.
    """

    def __init__(self, client: Any, namespace: str) -> None:
        self.namespace = namespace
        self._client = client

    def read(self, kind: Kind, name: str) -> Object | None:
        """An object; None where there is none.

        Raises:
            DriftwheelError: The API cannot be reached, or refuses.
        """
        try:
            return self._call("GET", f"{kind.path(self.namespace)}/{name}")
        except NotFoundError:
            return None

    def bearing(self, kind: Kind, label: str, value: str) -> list[Object]:
        """The objects of a kind that bear a label.

        Raises:
            DriftwheelError: The API cannot be reached, or refuses.
        """
        return self._call("GET", f"{kind.path(self.namespace)}?labelSelector={quote(f'{label}={value}', safe='')}")[
            "items"
        ]

    def create(self, kind: Kind, content: Object) -> bool:
        """Make an object; False, and nothing done, where one of its name is there already.

        Raises:
            DriftwheelError: The API cannot be reached, or refuses.
        """
        try:
            self._call("POST", kind.path(self.namespace), content)
        except _ExistsError:
            return False
        return True

    def delete(self, kind: Kind, name: str) -> None:
        """Delete an object, after what belongs to it; one that is not there is fine.

        Raises:
            DriftwheelError: The API cannot be reached, or refuses.
        """
        try:
            self._call("DELETE", f"{kind.path(self.namespace)}/{name}", {"propagationPolicy": "Foreground"})
        except NotFoundError:
            return

    def merge(self, kind: Kind, name: str, change: Object) -> None:
        """Merge a change into an object (RFC 7396).

        Raises:
            NotFoundError: There is none.
            DriftwheelError: The API cannot be reached, or refuses.
        """
        self._call("PATCH", f"{kind.path(self.namespace)}/{name}", change)

    def _call(self, method: str, path: str, body: Object | None = None) -> Any:
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        # The client's own methods send a patch that kinds of other projects do not take.
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        try:
            return self._client.call_api(
                path,
                method,
                header_params={"Content-Type": kind, "Accept": "application/json"},
                body=body,
                response_type="object",
                auth_settings=["BearerToken"],
                _return_http_data_only=True,
                _request_timeout=_CALL_TIMEOUT_S,
            )
        except ApiException as error:
            said = f"Kubernetes answers {method} {path} with {error.status} {error.reason}: {_message(error)}"
            if error.status == 404:
                raise NotFoundError(said) from None
            if error.status == 409 and method == "POST":
                raise _ExistsError(said) from None
            hint = "k8s/pipelines has the role that steps need, k8s/components/retrain-jobs the one for retrains"
            raise DriftwheelError(said, hint=hint) from None
        except HTTPError as error:
            raise DriftwheelError(f"the Kubernetes API cannot be reached: {error}") from None


def _message(error: Any) -> str:
    try:
        return str(json.loads(error.body)["message"])
    except (TypeError, ValueError, KeyError):
        return str(error.body)


def own_cluster() -> Cluster:
    """The cluster and the namespace that this pod runs in.

    Raises:
        ConfigurationError: This is no pod, it has no service account's token, or the library is not installed.
    """
    try:
        from kubernetes import client, config
    except ImportError:
        raise ConfigurationError(
            "this asks Kubernetes, and its client is not installed", hint='pip install "driftwheel[pipeline]"'
        ) from None
    try:
        config.load_incluster_config()
        return Cluster(client.ApiClient(), _OWN_NAMESPACE.read_text().strip())
    except (config.ConfigException, OSError) as error:
        raise ConfigurationError(
            f"this asks Kubernetes, and can do so in a pod with a service account only: {error}"
        ) from None


def object_name(prefix: str, model: str, key: str) -> str:
    """The name of what is made for a model under a key: that of the same key is the same, so that whoever asks again finds it.
    It leaves room for what controllers add to it to name pods.
    """
    readable = f"{prefix}-{check_name(model)}".lower().replace("_", "-")[:30].rstrip("-")
    return f"{readable}-{hashlib.sha256(key.encode()).hexdigest()[:10]}"


def condition(found: Object, kind: str) -> Object | None:
    """The condition of that kind in an object's status, if it is true. Jobs and TrainJobs end with Complete or Failed."""
    conditions = found.get("status", {}).get("conditions") or []
    return next((one for one in conditions if one["type"] == kind and one["status"] == "True"), None)


def wait_for(look: Callable[[], T | None], *, what: str, timeout_s: float, every_s: float) -> T:
    """Look until there is something.

    Raises:
        DriftwheelError: There was nothing within ``timeout_s``.
    """
    deadline = time.monotonic() + timeout_s
    while (found := look()) is None:
        if time.monotonic() > deadline:
            raise DriftwheelError(f"{what} took longer than {timeout_s:g} s")
        time.sleep(every_s)
    return found
