"""One home for the tests of a file; whichever comes first starts its TorchServe."""

from collections.abc import Generator

import pytest

from serving.torchserve import lifecycle
from tests.serving.torchserve.up.home import BOTH, Home

HOSTILE = {
    "AWS_SECRET_ACCESS_KEY": "a-secret-of-ours",
    "TS_CONFIG_FILE": "/nowhere",
    "TS_DISABLE_TOKEN_AUTHORIZATION": "true",
    "TS_ALLOWED_URLS": ".*",
    "TS_ENABLE_MODEL_API": "true",
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Generator[Home]:
    made = Home(tmp_path_factory.mktemp("home"))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in HOSTILE.items():
            patch.setenv(name, value)
        yield made
    lifecycle.down(made.settings)


@pytest.fixture
def started(home: Home) -> Home:
    """With one version of each model; whichever test comes first starts it."""
    home.up(*BOTH)
    return home
