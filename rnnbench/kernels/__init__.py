"""The training step, compiled. Nothing is here that `rnnbench.cells` and `rnnbench.train` do not say more plainly."""
