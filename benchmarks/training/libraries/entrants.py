"""Who is compared in which case, with which parameters, and between which ones these were chosen."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Case = Literal["R1", "R2", "R2 with fold-in", "R3", "throughput"]
"""A split, and whether the ratings before a test rating may be used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entrant:
    """A model in one case."""

    case: Case
    name: str
    module: str
    """Of ``benchmarks.training``."""
    function: str = "predict"
    """One of ``contract.FUNCTIONS``."""
    parameters: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Of the function; where there is a grid, what ``python -m benchmarks.training.tune`` found best on the inner split."""
    grid: Mapping[str, Sequence[Any]] = field(default_factory=dict[str, Sequence[Any]])
    """Values to be tried."""
    chance: bool = True
    """Whether another seed gives another answer."""
    before: str = ""
    """What was measured for it when the comparison was designed, by others and elsewhere."""
    passes: str = "epochs"
    """The parameter that says how often training goes over the ratings (throughput)."""

    @property
    def is_library(self) -> bool:
        """Whether it is not ours, and has an environment of its own."""
        return self.module.startswith("libraries.")


_SURPRISE = "libraries.surprise_svd"
_LENSKIT = "libraries.lenskit_als"
_IMPLICIT = "libraries.implicit_als"
_SGD_GRID = {"n_epochs": [30, 60], "lr_all": [0.005, 0.01], "reg_all": [0.05, 0.08, 0.1, 0.15]}
_ALS_GRID = {"embedding_size": [10, 20, 40], "regularization": [0.05, 0.1, 0.2, 0.3]}
_FM = {"rank": 16, "iterations": 300}

R1 = (
    Entrant(case="R1", name="mean", module="libraries.means", chance=False, before="1.060"),
    Entrant(
        case="R1",
        name="the guide's model",
        module="libraries.guide_loop",
        parameters={"epochs": 10},
        before="1.159",
    ),
    Entrant(
        case="R1",
        name="torch MF, Adagrad",
        module="libraries.torch_mf",
        parameters={"factors": 64, "epochs": 20, "batch": 1024, "rate": 0.1, "penalty": 0.1},
        grid={"factors": [32, 64], "rate": [0.05, 0.1], "penalty": [0.05, 0.1, 0.2]},
        before=".8704",
    ),
    Entrant(
        case="R1",
        name="surprise SVD",
        module=_SURPRISE,
        parameters={"n_factors": 100, "n_epochs": 60, "lr_all": 0.01, "reg_all": 0.1},
        grid=_SGD_GRID,
        before=".8697",
    ),
    Entrant(
        case="R1",
        name="surprise SVD++",
        module=_SURPRISE,
        parameters={"implicit": True, "n_factors": 20, "n_epochs": 40, "lr_all": 0.01, "reg_all": 0.08},
        grid={"n_epochs": [20, 40], "reg_all": [0.05, 0.08, 0.1]},
        before=".885",
    ),
    Entrant(
        case="R1",
        name="LensKit ALS",
        module=_LENSKIT,
        parameters={"embedding_size": 40, "epochs": 15, "regularization": 0.2, "damping": 5.0},
        grid=_ALS_GRID,
        before=".8733",
    ),
    Entrant(
        case="R1",
        name="myfm, ids only",
        module="libraries.bayesian_fm",
        parameters=_FM,
        grid={"rank": [8, 16, 32]},
        before=".8559",
    ),
    Entrant(
        case="R1",
        name="myfm, genre, year and time",
        module="libraries.bayesian_fm",
        parameters={**_FM, "features": True},
        grid={"rank": [8, 16, 32]},
        before=".8282",
    ),
)

R2 = (
    Entrant(case="R2", name="mean", module="libraries.means", chance=False),
    Entrant(
        case="R2",
        name="surprise SVD",
        module=_SURPRISE,
        parameters={"n_factors": 100, "n_epochs": 40, "lr_all": 0.02, "reg_all": 0.1},
        grid={
            "n_factors": [20, 100],
            "n_epochs": [20, 40, 80],
            "lr_all": [0.005, 0.01, 0.02],
            "reg_all": [0.05, 0.1, 0.2],
        },
        before="1.0431",
    ),
    Entrant(
        case="R2",
        name="LensKit ALS",
        module=_LENSKIT,
        parameters={"embedding_size": 20, "epochs": 10, "regularization": 0.2, "damping": 5.0},
        grid=_ALS_GRID | {"damping": [5.0, 10.0]},
        before="1.0455",
    ),
)

_FOLD_IN: Case = "R2 with fold-in"
R2_WITH_FOLD_IN = (
    Entrant(
        case=_FOLD_IN,
        name="item means and the user's running mean",
        module="libraries.means",
        function="predict_with_history",
        parameters={"item_damping": 5, "user_damping": 3},
        grid={"item_damping": [2, 5, 10], "user_damping": [1, 3, 5]},
        chance=False,
        before=".911",
    ),
    Entrant(
        case=_FOLD_IN,
        name="plain ALS with ridge fold-in",
        module="libraries.ridge_als",
        function="predict_with_history",
        parameters={"factors": 20, "ridge": 10, "bias_ridge": 3, "item_damping": 5, "epochs": 8},
        grid={"ridge": [3, 6, 10, 16], "bias_ridge": [1, 3]},
        before=".892",
    ),
    Entrant(
        case=_FOLD_IN,
        name="LensKit ALS with history",
        module=_LENSKIT,
        function="predict_with_history",
        parameters={"embedding_size": 20, "epochs": 10, "regularization": 0.2, "damping": 5.0},
        grid=_ALS_GRID,
    ),
)

R3 = (
    Entrant(
        case="R3", name="popularity", module="libraries.means", function="rank", chance=False, before=".0464 / .0863"
    ),
    Entrant(
        case="R3",
        name="implicit ALS",
        module=_IMPLICIT,
        function="rank",
        parameters={"factors": 64, "regularization": 10.0, "alpha": 0.3, "iterations": 15},
        grid={"factors": [32, 64], "regularization": [0.1, 3.0, 10.0], "alpha": [0.3, 1.2]},
        before=".0854 / .158",
    ),
    Entrant(
        case="R3",
        name="LensKit ALS for implicit feedback",
        module=_LENSKIT,
        function="rank",
        parameters={"embedding_size": 64, "epochs": 10, "regularization": 10.0, "weight": 0.3, "use_ratings": True},
        grid={"embedding_size": [32, 64], "regularization": [3.0, 10.0], "weight": [0.3, 1.0]},
    ),
    Entrant(
        case="R3",
        name="EASE",
        module="libraries.ease",
        function="rank",
        parameters={"ridge": 400, "least": 3.0},
        grid={"ridge": [100, 200, 400, 800], "least": [0.5, 3.0, 4.0]},
        chance=False,
        before=".0804 / .161",
    ),
    Entrant(
        case="R3",
        name="EASE, newer ratings weigh more",
        module="libraries.ease",
        function="rank",
        parameters={"ridge": 400, "least": 3.0, "half_life": 5},
        grid={"ridge": [200, 400, 800], "least": [0.5, 3.0, 4.0], "half_life": [5, 10, 20]},
        chance=False,
        before=".0983 / .185",
    ),
)

_WIDTH = 64
THROUGHPUT = (
    Entrant(
        case="throughput",
        name="the guide's loop",
        module="libraries.guide_loop",
        parameters={"epochs": 1, "factors": _WIDTH, "rows": 100_000},
        before="35k",
    ),
    Entrant(
        case="throughput",
        name="torch MF, Adagrad",
        module="libraries.torch_mf",
        parameters={"factors": _WIDTH, "epochs": 4, "batch": 16_384, "rate": 0.1, "penalty": 0.05, "threads": 2},
        before="0.7M",
    ),
    Entrant(
        case="throughput",
        name="surprise SVD (one thread)",
        module=_SURPRISE,
        parameters={"n_factors": _WIDTH, "n_epochs": 10, "lr_all": 0.005, "reg_all": 0.05},
        passes="n_epochs",
        before="1.2M",
    ),
    Entrant(
        case="throughput",
        name="LensKit ALS",
        module=_LENSKIT,
        parameters={"embedding_size": _WIDTH, "epochs": 5, "regularization": 0.1, "damping": 5.0},
        before="1.3M",
    ),
    Entrant(
        case="throughput",
        name="implicit ALS (conjugate gradient, no stars)",
        module=_IMPLICIT,
        function="fit",
        parameters={"factors": _WIDTH, "regularization": 0.05, "iterations": 5, "use_cg": True},
        passes="iterations",
        before="5M",
    ),
)

ENTRANTS = (*R1, *R2, *R2_WITH_FOLD_IN, *R3, *THROUGHPUT)
