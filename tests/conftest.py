"""What all tests share."""

import os

# A developer's own settings must not reach the tests.
for name in [name for name in os.environ if name.startswith("DRIFTWHEEL_")]:
    del os.environ[name]
