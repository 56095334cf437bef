"""The launcher for Ray: the runs of a sweep on the cores of one machine, or on many machines."""
