"""What ``driftwheel serve`` becomes once it knows what to do: ``python -m serving.supervisor_entry DESCRIPTOR``.

The descriptor is that of a file with a ``Plan``, as JSON. The process is still the same to whoever started it.
"""

import sys

from serving.without import without

# structlog looks for rich, its asyncio and http.client for ssl: half of this process's memory, and it uses neither. Rich is
# to be found again, where an error has to be told.
with without("rich", "ssl"):
    from driftwheel.exits import error_exits
    from driftwheel.log import configure_logging
    from serving.plan import Plan
    from serving.supervising import supervise_until_signalled

import msgspec


def main() -> None:
    """Supervise, and end as the command line does."""
    with open(int(sys.argv[1]), "rb") as file:  # noqa: PTH123 (a descriptor has no path)
        plan = msgspec.json.decode(file.read(), type=Plan)
    configure_logging(plan.log_format, plan.log_level)
    with error_exits():
        supervise_until_signalled(plan)


if __name__ == "__main__":
    main()
