"""Searches with Optuna: a sweeper that draws its jobs batch by batch."""
