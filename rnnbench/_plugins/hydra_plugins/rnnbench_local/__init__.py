"""The launcher of rnnbench for one machine."""
