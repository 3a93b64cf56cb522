"""When a call is tried again: decisions only, no clock, sleep or randomness of their own.

gRPC's built-in retries cannot be used: they would send what is too large again (it has the code of what is overloaded),
they know nothing of HTTP, and their clock cannot be given to them.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto

from driftwheel._client.errors import ClientError, DeadlineExceededError, OverloadedError, UnavailableError


class Safety(Enum):
    """What a second copy of a call does."""

    REPEATABLE = auto()
    """Nothing: try again whenever the server may answer now."""
    ONCE = auto()
    """It counts: try again only when the server surely did nothing."""
    SINGLE = auto()
    """It is not wanted: a probe says how it is now, an admin call is looked at by whoever made it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How often and how soon a call is tried again. The call's timeout holds over all attempts."""

    attempts: int = 4
    """The most times that a call is sent; 1 turns retries off."""
    initial_backoff_s: float = 0.05
    """The longest first pause. The real one is drawn evenly between 0 and it ("full jitter")."""
    max_backoff_s: float = 2.0
    """What the longest pause doubles up to."""
    budget: float = 0.2
    """The share of calls that may be retries, over time: a server in trouble is not sent several times its load."""
    reserve: int = 10
    """Retries that are always there to begin with, so that few calls can be retried too."""

    def __post_init__(self) -> None:
        """Refuse what makes no sense.

        Raises:
            ValueError: A field is out of its range.
        """
        if self.attempts < 1 or self.reserve < 0 or not 0 <= self.budget <= 1:
            raise ValueError(f"attempts must be at least 1, reserve at least 0, budget between 0 and 1: {self}")
        if not 0 <= self.initial_backoff_s <= self.max_backoff_s:
            raise ValueError(f"initial_backoff_s must be between 0 and max_backoff_s: {self}")

    def longest_pause_s(self, failures: int) -> float:
        """The longest pause after so many failures."""
        return min(self.max_backoff_s, self.initial_backoff_s * 2.0 ** min(failures - 1, 30))


class RetryBudget:
    """A bucket that each call fills a little and each retry empties by one. Threads may share it."""

    def __init__(self, policy: RetryPolicy) -> None:
        self._share = policy.budget
        self._most = float(policy.reserve)
        self._tokens = self._most
        self._lock = threading.Lock()

    def called(self) -> None:
        """A call is made."""
        with self._lock:
            self._tokens = min(self._most, self._tokens + self._share)

    def take(self) -> bool:
        """Whether one more retry is within the budget; then it is spent."""
        with self._lock:
            if self._tokens < 1:
                return False
            self._tokens -= 1
            return True


class Attempts:
    """The attempts at one call.

    Args:
        clock: Monotonic seconds.
        random: Even between 0 and 1.
    """

    def __init__(
        self,
        policy: RetryPolicy,
        budget: RetryBudget,
        *,
        safety: Safety,
        timeout_s: float,
        clock: Callable[[], float],
        random: Callable[[], float],
    ) -> None:
        self._policy = policy
        self._budget = budget
        self._safety = safety
        self._clock = clock
        self._random = random
        self._deadline = clock() + timeout_s
        self._failures = 0
        budget.called()

    def remaining_s(self) -> float:
        """What is left of the timeout for the next attempt.

        Raises:
            DeadlineExceededError: Nothing.
        """
        remaining = self._deadline - self._clock()
        if remaining <= 0:
            raise DeadlineExceededError("DEADLINE_EXCEEDED", "no time is left for the call", unprocessed=True)
        return remaining

    def pause_after(self, error: ClientError) -> float:
        """How long to wait before the next attempt, in seconds: what the server asked for, and the jitter.

        Raises:
            ClientError: ``error`` itself, where there is no next attempt.
        """
        self._failures += 1
        if self._failures >= self._policy.attempts or not may_retry(error, self._safety):
            raise error from None
        pause = self._random() * self._policy.longest_pause_s(self._failures) + (error.retry_after_s or 0.0)
        if self._clock() + pause >= self._deadline or not self._budget.take():
            raise error from None
        return pause


def may_retry(error: ClientError, safety: Safety) -> bool:
    """Whether a second copy of a call may be sent after this error."""
    if not isinstance(error, UnavailableError | OverloadedError) or (error.retry_after_s or 0.0) < 0:
        return False
    return safety is Safety.REPEATABLE or (safety is Safety.ONCE and error.unprocessed)
