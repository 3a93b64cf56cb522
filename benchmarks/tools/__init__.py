"""What the benchmarks share: load, arrivals, the use of processes, messages, reports."""
