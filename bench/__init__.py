"""Timings of fastssm against every other way to compute the same loss; see README.md in this directory."""
