"""Flowstill's tests. A package, because installed distributions exist that bring a top-level `tests` too."""
