"""LAUNCH: where planned runs are executed; SLURM is the first executor, Ray the second."""
