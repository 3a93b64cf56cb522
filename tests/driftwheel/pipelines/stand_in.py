"""The Kubernetes API as far as steps and retrains need it: objects by path or label, merge patches, and answers as the real
one gives them.
"""

import json
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from kubernetes import client

from driftwheel.wheel.cluster import Cluster, Kind

NAMESPACE = "driftwheel"

Object = dict[str, Any]
Controller = Callable[["StandIn", str, str], None]
"""What the cluster's controllers do after a call: gets the method and the path."""


class StandIn:
    """Objects, and the calls that were made."""

    def __init__(self, controller: Controller) -> None:
        self.objects: dict[str, Object] = {}
        self.calls: list[tuple[str, str]] = []
        self.controller = controller
        self.lock = threading.RLock()

    def put(self, kind: Kind, name: str, content: Object) -> None:
        self.objects[f"{kind.path(NAMESPACE)}/{name}"] = {"metadata": {"name": name, "generation": 1}, **content}

    def get(self, kind: Kind, name: str) -> Object:
        return self.objects[f"{kind.path(NAMESPACE)}/{name}"]

    def bearing(self, folder: str, query: dict[str, list[str]]) -> list[Object]:
        label, _, value = query["labelSelector"][0].partition("=")
        found = [content for path, content in self.objects.items() if path.rpartition("/")[0] == folder]
        return [one for one in found if one["metadata"].get("labels", {}).get(label) == value]

    def answer(self, method: str, path: str, kind: str, body: Object | None) -> tuple[int, Object]:
        with self.lock:
            self.calls.append((method, path))
            if method == "POST":
                assert body is not None
                path = f"{path}/{body['metadata']['name']}"
                if path in self.objects:
                    return 409, {"message": f"{path} already exists"}
                self.objects[path] = body
            elif "?labelSelector=" in path:
                return 200, {"items": self.bearing(urlsplit(path).path, parse_qs(urlsplit(path).query))}
            elif path not in self.objects:
                return 404, {"message": f'"{path.rpartition("/")[2]}" not found'}
            elif method == "PATCH":
                if kind != "application/merge-patch+json":  # custom resources take no other of an object
                    return 415, {"message": f"{kind} is not supported"}
                merge(self.objects[path], body or {})
            elif method == "DELETE":
                return 200, self.objects.pop(path)
            answer = json.loads(json.dumps(self.objects[path]))
        self.controller(self, method, path)
        return 200, answer


def merge(target: Object, change: Object) -> None:
    for name, value in change.items():
        if isinstance(value, dict) and isinstance(target.get(name), dict):
            merge(target[name], value)
        elif value is None:
            target.pop(name, None)
        else:
            target[name] = value


@contextmanager
def stand_in(controller: Controller = lambda *_: None) -> Generator[tuple[StandIn, Cluster]]:
    """A running stand-in, and a cluster that asks it."""
    api = StandIn(controller)

    class Handler(BaseHTTPRequestHandler):
        def _do(self) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            body = json.loads(content) if content else None
            status, answer = api.answer(self.command, self.path, self.headers.get("Content-Type", ""), body)
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        do_GET = do_POST = do_PATCH = do_DELETE = _do  # noqa: N815 (http.server's names)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        configuration = client.Configuration(host=f"http://127.0.0.1:{server.server_port}")
        configuration.retries = False
        with client.ApiClient(configuration) as opened:
            yield api, Cluster(opened, NAMESPACE)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
