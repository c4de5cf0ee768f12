"""Compare arms by their Pareto frontiers: envelopes, gains, crossovers."""
