"""Answers queries for one version, many at a time."""

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain, pairwise
from pathlib import Path

import numpy as np
import structlog
from numpy.typing import NDArray

from driftwheel.bundle import FACTOR_PARAMETERS, Bundle
from driftwheel.errors import ModelFaultError, NotFiniteError, RequestError
from driftwheel.serving_settings import ModelLimits, ServingSettings
from driftwheel.vocabulary import UNKNOWN, Vocabulary
from serving.batching import Batcher, RunCost
from serving.recommendation.catalogue import Catalogue, Factors
from serving.recommendation.fold_in import fold_in_of
from serving.recommendation.questions import Encoder, Query
from serving.recommendation.search import Found, TopK

_log = structlog.get_logger()

_MOST_BATCHED = 128
"""Users of one run: the next one waits no longer than it takes."""
_WARM_UP_USERS = (1, 32)
_WARM_UP_RUNS = 3


class Source(StrEnum):
    """Where a recommendation comes from."""

    FACTORS = "factors"
    """What training learned of the user."""
    FOLD_IN = "fold_in"
    """The ratings that came with the request."""
    POPULARITY = "popularity"
    """Nothing is known of the user: the items that most people rated, with the average user's scores."""


@dataclass(frozen=True, slots=True)
class Recommendation:
    """What one user gets, best first; ``scores`` are predicted ratings, float32 ``[k]``."""

    source: Source
    items: list[int | str]
    titles: list[str | None]
    scores: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class _Ranked:
    source: Source
    rows: NDArray[np.int64]
    scores: NDArray[np.float32]
    """Not clipped yet."""


Job = Sequence[Query]
"""The users of one request."""


class Recommender:
    """Exact top-K. Thread-safe."""

    def __init__(
        self, factors: Factors, catalogue: Catalogue, users: Vocabulary, items: Vocabulary, *, threads: int, label: str
    ) -> None:
        parameters = factors.parameters
        self._factors = factors
        self._catalogue = catalogue
        self._label = label
        self._search = TopK(factors.items, threads=threads)
        self._fold_in = fold_in_of(factors.items, parameters, factors.prior)
        self.encoder = Encoder(users, items, low=parameters.low, high=parameters.high)

    def __call__(self, jobs: Sequence[Job]) -> list[list[Recommendation] | RequestError]:
        """Answer the users of several requests in one search.

        Returns:
            For each request, its users' recommendations in order; NotFiniteError in place of scores that are not numbers.
        """
        queries = list(chain.from_iterable(jobs))
        try:
            recommendations = self._named(self._ranked(queries))
        except Exception as error:
            _log.exception("recommender.crashed", version=self._label)
            raise ModelFaultError(f"{self._label} failed on this request; the server's log says why") from error
        answers: list[list[Recommendation] | RequestError] = []
        finite = bool(np.isfinite(np.concatenate([one.scores for one in recommendations])).all())
        start = 0
        for job in jobs:
            answer = recommendations[start : start + len(job)]
            start += len(job)
            ok = finite or all(np.isfinite(one.scores).all() for one in answer)
            answers.append(answer if ok else self._not_finite())
        return answers

    def seen_by(self, user_index: int) -> NDArray[np.int64]:
        """The rows of the items that a user rated in training."""
        return self._catalogue.seen_by(user_index)

    def ranked(
        self, user_index: int, exclude: NDArray[np.int64], k: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The rows and scores that a user known to training gets: what export proves."""
        none = np.empty(0, dtype=np.int64)
        (ranked,) = self._ranked([Query(user_index, k, exclude, None, none, none.astype(np.float64))])
        return ranked.rows, self._clipped(ranked.scores)

    def warm_up_queries(self, count: int) -> list[Query]:
        """For users that each bring a rating."""
        none, rating = np.empty(0, dtype=np.int64), np.array([self._factors.parameters.high])
        rows = np.arange(count) % len(self._factors.items)
        return [Query(UNKNOWN, 10, none, None, rows[user : user + 1], rating) for user in range(count)]

    def _clipped(self, scores: NDArray[np.float32]) -> NDArray[np.float32]:
        """Scores in the rating range."""
        parameters = self._factors.parameters
        return (scores + np.float32(parameters.mean)).clip(parameters.low, parameters.high)

    def _not_finite(self) -> NotFiniteError:
        return NotFiniteError(f"{self._label} recommends with a score that is not a number")

    def _ranked(self, queries: Sequence[Query]) -> list[_Ranked]:
        ranked: dict[int, _Ranked] = {}
        searched: dict[int, tuple[Source, NDArray[np.float32]]] = {}
        excluded: list[NDArray[np.int64]] = []
        for position, query in enumerate(queries):
            never = self._excluded(query)
            source, user = self._user(query)
            if source is Source.POPULARITY:
                ranked[position] = self._popular(query, never)
            elif query.candidates is not None:
                ranked[position] = self._among(query, source, user, never)
            else:
                searched[position] = source, user
                excluded.append(never)
        if searched:
            users = np.stack([user for _, user in searched.values()])
            counts = [queries[position].k for position in searched]
            found = self._found(users, counts, excluded)
            for (position, (source, user)), one in zip(searched.items(), found, strict=True):
                ranked[position] = _Ranked(source, one.rows, one.scores + user[-1])
        return [ranked[position] for position in range(len(queries))]

    def _found(
        self, users: NDArray[np.float32], counts: Sequence[int], excluded: Sequence[NDArray[np.int64]]
    ) -> list[Found]:
        """The search, for vectors that are numbers; the others get a score that tells."""
        good: list[bool] = np.logical_and.reduce(np.isfinite(users), axis=1).tolist()
        if all(good):
            return self._search.search(users[:, :-1], counts, excluded)
        tells = Found(np.zeros(1, dtype=np.int64), np.full(1, np.nan, dtype=np.float32))
        return [
            self._search.search(users[one : one + 1, :-1], counts[one : one + 1], excluded[one : one + 1])[0]
            if good[one]
            else tells
            for one in range(len(users))
        ]

    def _excluded(self, query: Query) -> NDArray[np.int64]:
        """The rows that must not come: those the caller names, those just rated, and those rated in training."""
        seen = self._catalogue.seen_by(query.user_index)
        if not len(query.exclude) and not len(query.rated):
            return seen
        return np.concatenate([query.exclude, query.rated, seen])

    def _user(self, query: Query) -> tuple[Source, NDArray[np.float32]]:
        """Vector and bias, float32 ``[factors + 1]``: ratings that came with the request count more than training."""
        if len(query.rated):
            return Source.FOLD_IN, self._fold_in(query.rated, query.ratings)
        source = Source.POPULARITY if query.user_index == UNKNOWN else Source.FACTORS
        return source, self._factors.users[query.user_index]

    def _popular(self, query: Query, excluded: NDArray[np.int64]) -> _Ranked:
        rows = self._catalogue.popular(query.k, excluded, query.candidates)
        return _Ranked(Source.POPULARITY, rows, self._factors.items[rows, -1])

    def _among(self, query: Query, source: Source, user: NDArray[np.float32], excluded: NDArray[np.int64]) -> _Ranked:
        """The best of the caller's candidates, equal scores by row."""
        everything = np.arange(len(self._factors.items)) if query.candidates is None else query.candidates
        rows = np.setdiff1d(everything, excluded)
        items = self._factors.items[rows]
        scores = items[:, :-1] @ user[:-1] + items[:, -1]
        best = np.argsort(-scores, kind="stable")[: query.k]
        return _Ranked(source, rows[best], scores[best] + user[-1])

    def _named(self, ranked: Sequence[_Ranked]) -> list[Recommendation]:
        """Ids, titles, and scores in the rating range; for all at once, which costs less than one by one."""
        ids = self._catalogue.ids
        edges = np.cumsum([0, *(len(one.rows) for one in ranked)]).tolist()
        rows = np.concatenate([one.rows for one in ranked])
        titles = self._catalogue.titles_of(rows)
        items = [ids[row] for row in rows.tolist()]
        scores = self._clipped(np.concatenate([one.scores for one in ranked]))
        return [
            Recommendation(one.source, items[start:end], titles[start:end], scores[start:end])
            for one, (start, end) in zip(ranked, pairwise(edges), strict=True)
        ]


@dataclass(frozen=True, slots=True, eq=False)
class LoadedRecommender:
    """A version's recommender, and what runs it."""

    encoder: Encoder
    batcher: Batcher[Job, list[Recommendation]]


def load_recommender(
    bundle: Bundle,
    vocabularies: dict[str, Vocabulary],
    settings: ServingSettings,
    limits: ModelLimits,
    executor: Executor,
    *,
    on_run: Callable[[int, float], None],
) -> LoadedRecommender | None:
    """Read and warm up what a bundle needs to recommend; None where it has no factors.

    Raises:
        BundleError: A part does not fit the others.
    """
    if FACTOR_PARAMETERS not in bundle.manifest.files:
        return None
    recommender = read_recommender(
        bundle.folder,
        vocabularies,
        threads=settings.recommend_threads or len(os.sched_getaffinity(0)),
        label=f"{bundle.name} version {bundle.version}",
    )
    batcher = Batcher(
        recommender,
        cost=measure_cost(recommender),
        inline_us=settings.inline_run_us,
        max_batch_rows=_MOST_BATCHED,
        max_queued_rows=settings.max_queued_users,
        max_delay_s=limits.max_queue_delay_ms / 1000,
        executor=executor,
        on_run=on_run,
    )
    return LoadedRecommender(recommender.encoder, batcher)


def read_recommender(folder: Path, vocabularies: dict[str, Vocabulary], *, threads: int, label: str) -> Recommender:
    """Read what a bundle's folder holds to recommend from.

    Args:
        threads: Of one search of a large catalogue.
        label: The version, for people.

    Raises:
        BundleError: A part does not fit the others.
    """
    users, items = vocabularies["user_id"], vocabularies["item_id"]
    factors = Factors.read(folder, users=len(users), items=len(items))
    return Recommender(factors, Catalogue.read(folder, items), users, items, threads=threads, label=label)


def measure_cost(recommender: Recommender) -> RunCost:
    """Recommend to one user and to several who each bring a rating, and draw a line through the best time of each."""
    best_us: list[float] = []
    for users in _WARM_UP_USERS:
        queries = recommender.warm_up_queries(users)
        times: list[float] = []
        for _ in range(_WARM_UP_RUNS):
            start = time.perf_counter()
            recommender([queries])
            times.append((time.perf_counter() - start) * 1e6)
        best_us.append(min(times))
    few, many = _WARM_UP_USERS
    return RunCost(fixed_us=best_us[0], row_us=max(0.0, (best_us[1] - best_us[0]) / (many - few)))
