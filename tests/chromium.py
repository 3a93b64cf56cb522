"""A headless Chromium for tests of pages, driven by its DevTools protocol over a websocket."""

import base64
import itertools
import json
import shutil
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
import pytest
from websockets.sync.client import connect

_PATIENCE_S = 60.0


class Chromium:
    """One page in a browser of its own, with what it complained about.

    Args:
        folder: For the profile.
    """

    def __init__(self, folder: Path) -> None:
        program = shutil.which("chromium")
        if program is None:
            pytest.skip("needs Debian's chromium")
        profile = folder / "profile"
        flags = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--remote-debugging-port=0",
            f"--user-data-dir={profile}",
        ]
        with (folder / "chromium.log").open("wb") as log:
            self._process = subprocess.Popen([program, *flags, "about:blank"], stdout=log, stderr=log)
        self._ids = itertools.count(1)
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self._connection = ExitStack()
        self._port_file = profile / "DevToolsActivePort"

    def __enter__(self) -> "Chromium":
        try:
            self._root = f"http://127.0.0.1:{self._port()}"
            self._attach(self._targets()[0]["webSocketDebuggerUrl"])
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end()

    def _end(self) -> None:
        self._connection.close()
        self._process.terminate()
        self._process.wait(timeout=30)

    def _port(self) -> str:
        file = self._port_file
        give_up = time.monotonic() + _PATIENCE_S
        while not file.exists() or "\n" not in file.read_text():
            assert self._process.poll() is None, "Chromium ended"
            assert time.monotonic() < give_up, "Chromium does not start"
            time.sleep(0.02)
        return file.read_text().splitlines()[0]

    def _targets(self) -> list[dict[str, Any]]:
        return [one for one in httpx.get(f"{self._root}/json/list").json() if one["type"] == "page"]

    def _attach(self, address: str) -> None:
        self._connection.close()
        self._socket = self._connection.enter_context(connect(address, max_size=None))
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def follow_new_tab(self, path: str) -> None:
        """Go on in the tab that a link has opened."""
        give_up = time.monotonic() + _PATIENCE_S
        while not (found := [one for one in self._targets() if path in one["url"]]):
            assert time.monotonic() < give_up, f"no tab shows {path}"
            time.sleep(0.05)
        self._attach(found[0]["webSocketDebuggerUrl"])

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and wait for its answer; events that come before it are looked at."""
        number = next(self._ids)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv(timeout=_PATIENCE_S))
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]
            self._note(message.get("method"), message.get("params", {}))

    def _note(self, event: str | None, details: dict[str, Any]) -> None:
        if event == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(details["exceptionDetails"])[:500])
        elif event == "Runtime.consoleAPICalled" and details["type"] in ("error", "warning", "assert"):
            self.complaints.append(json.dumps(details["args"])[:500])
        elif event == "Log.entryAdded" and details["entry"]["level"] in ("error", "warning"):
            self.complaints.append(f"{details['entry']['text']} {details['entry'].get('url', '')}")
        elif event == "Network.requestWillBeSent":
            self.requests.append(details["request"]["url"])

    def show(self, width: int, height: int = 900, *, scheme: str = "light") -> None:
        """The size of the window in CSS pixels, and the reader's colour scheme."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", features=features)

    def open(self, address: str) -> None:
        """Go to a page."""
        self.call("Page.navigate", url=address)

    def evaluate(self, script: str) -> Any:
        """The value of an expression, awaited."""
        answer = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait_for(self, script: str) -> bool:
        """Wait until an expression is true as JavaScript has it."""
        give_up = time.monotonic() + _PATIENCE_S
        while not self.evaluate(f"Boolean({script})"):
            assert time.monotonic() < give_up, (script, self.evaluate("document.body.innerText"), self.complaints)
            time.sleep(0.05)
        return True

    def press(self, key: str) -> None:
        """A key, as a person presses it."""
        codes = {"Tab": 9, "Enter": 13, " ": 32}
        text = {"Enter": "\r", " ": " "}.get(key, "")
        pressed = {
            "key": key,
            "code": "Space" if key == " " else key,
            "windowsVirtualKeyCode": codes[key],
            "text": text,
        }
        self.call("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", **pressed)
        self.call("Input.dispatchKeyEvent", type="keyUp", **pressed)

    def type(self, text: str) -> None:
        """Text into what has the focus."""
        self.call("Input.insertText", text=text)

    def screenshot(self, path: Path, *, whole: bool = True) -> None:
        """A picture of the page as PNG."""
        answer = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(answer["data"]))
