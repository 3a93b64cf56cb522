"""Which rank holds and writes which part of a model."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """One rank's share of the parameters. Those that neither set names are the same on all ranks, and rank 0 writes
    them.
    """

    rank: int
    ranks: int
    rows: frozenset[str] = frozenset()
    """Parameters of which a rank has the rows ``rank::ranks`` only."""
    own: frozenset[str] = frozenset()
    """Parameters that this rank alone has, whole."""
    elsewhere: frozenset[str] = frozenset()
    """Parameters that other ranks alone have."""

    @property
    def data_ranks(self) -> int:
        """Into how many parts a batch's rows fall: the stages of a pipeline work on the same ones."""
        return 1 if self.own or self.elsewhere else self.ranks

    @property
    def whole(self) -> bool:
        """Whether each rank has the whole model."""
        return not (self.rows or self.own or self.elsewhere)

    def writes(self, name: str) -> bool:
        """Whether this rank writes the parameter or buffer ``name``, or its rows of it."""
        return name in self.rows or name in self.own or (self.rank == 0 and name not in self.elsewhere)
