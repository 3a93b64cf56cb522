"""A watcher, asked as Alertmanager asks."""

import threading

import httpx

from driftwheel.settings import Settings
from driftwheel.wheel.watcher import watching
from tests.monitoring.test_alert_webhook import notification


def codes_for(settings: Settings, *tokens: str) -> list[int]:
    """What a watcher with these settings answers to one and the same alert, brought with one token after the other."""
    with watching(settings) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_address[1]}/v1/alerts"
            with httpx.Client(trust_env=False) as client:
                answers = [
                    client.post(url, json=notification(), headers={"authorization": f"Bearer {token}"})
                    for token in tokens
                ]
        finally:
            server.shutdown()
            thread.join()
    return [answer.status_code for answer in answers]
