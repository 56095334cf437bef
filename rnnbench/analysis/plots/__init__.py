"""Figures, a module each kind; none of them touches matplotlib's global state."""
