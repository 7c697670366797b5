"""Benchmarks of fastssm against other implementations of the same loss; see README.md in this directory."""
