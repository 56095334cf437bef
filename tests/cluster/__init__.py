"""Tests that start a cluster on this machine; each has a make target of its own."""
