"""The sweeper of rnnbench. The directory above has no ``__init__.py``: it is shared with the plugins of others."""
