"""Driftwheel's own client: ``pip install driftwheel``.

python examples/driftwheel_example.py [HOST:PORT]
"""

import asyncio
import sys

import numpy as np

from driftwheel.client import AsyncClient, Client, OverloadedError


def blocking(target: str) -> None:
    """Scores, a recommendation, how likely a customer is to leave, and feedback."""
    with Client(target, timeout_s=5.0) as client:
        inputs = ", ".join(f"{spec.name} ({spec.datatype})" for spec in client.metadata("mf").inputs)
        print("mf takes", inputs)
        answer = client.infer("mf", {"user_id": np.array([15, 7]), "item_id": np.array([318, 318])})
        print("scores", answer.outputs["score"], "from version", answer.version)
        best = client.recommend(15, 3)
        print("for user 15:", ", ".join(f"{item.title or item.item_id} ({item.score:.2f})" for item in best.items))
        leaving = client.churn([{"contract": "Month-to-month", "tenure": 2}])
        print("leaves with probability", leaving.probabilities)
        print("labels accepted:", client.feedback([(best.prediction_id, 0, 4.5)]))


async def asynchronous(target: str) -> None:
    """Many calls at once. What the retries do not get through is for the caller to hold back."""
    async with AsyncClient(target) as client:
        users = np.arange(1, 9)
        calls = [
            client.infer("mf", {"user_id": users[n : n + 1], "item_id": np.array([318])}) for n in range(len(users))
        ]
        try:
            answers = await asyncio.gather(*calls)
            print("scores", [round(float(answer.outputs["score"][0]), 2) for answer in answers])
        except OverloadedError as error:
            print("the server asks to come back in", error.retry_after_s, "s")


if __name__ == "__main__":
    server = sys.argv[1] if len(sys.argv) > 1 else "localhost:8080"
    blocking(server)
    asyncio.run(asynchronous(server))
