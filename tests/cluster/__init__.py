"""Sweeps on clusters that the tests start themselves: make test-ray, make test-slurm."""
