"""The tasks: `adding`, `copy_memory` and `music`, on one interface, `base.Task`."""
