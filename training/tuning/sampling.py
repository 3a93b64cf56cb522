"""How the next parameters are chosen: TPE, drawn for each trial from a seed and the trial's number."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler


def sampler(seed: int) -> "BaseSampler":
    """A TPE sampler (Bergstra et al. 2011; multivariate, with running trials taken for bad ones).

    One worker alone so draws the same trials each time; workers side by side do not draw the same as each other, which a
    common seed would make them do.
    """
    from optuna.samplers import BaseSampler, TPESampler

    class NumberedTPE(BaseSampler):
        def __init__(self) -> None:
            self._of = (-1, TPESampler())

        def _for(self, trial: Any) -> TPESampler:
            if self._of[0] != trial.number:
                self._of = (trial.number, TPESampler(seed=(seed + trial.number) % 2**32))
            return self._of[1]

        def infer_relative_search_space(self, study: Any, trial: Any) -> Any:
            return self._for(trial).infer_relative_search_space(study, trial)

        def sample_relative(self, study: Any, trial: Any, search_space: Any) -> Any:
            return self._for(trial).sample_relative(study, trial, search_space)

        def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: Any) -> Any:
            return self._for(trial).sample_independent(study, trial, param_name, param_distribution)

        def before_trial(self, study: Any, trial: Any) -> None:
            self._for(trial).before_trial(study, trial)

        def after_trial(self, study: Any, trial: Any, state: Any, values: Any) -> None:
            self._for(trial).after_trial(study, trial, state, values)

    return NumberedTPE()
