"""``python -m driftwheel``."""

from driftwheel.cli import main

main()
