"""Hosting models, sweeps, Slurm, the paper's table."""
