"""Tests of rnnbench."""
