import pytest

from benchmarks.canary.split import ROLLOUTS, main


def test_each_kind_of_rollout_is_timed(capsys: pytest.CaptureFixture[str]) -> None:
    main()
    told = dict(line.split(": ") for line in capsys.readouterr().out.splitlines())
    assert list(told) == list(ROLLOUTS)
    # Without a candidate nothing is hashed.
    assert 0 < float(told["nothing on trial"].removesuffix(" ns")) < float(told["one candidate"].removesuffix(" ns"))
