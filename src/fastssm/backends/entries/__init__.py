"""Entries to the engines: how a call on flat tensors runs, and is differentiated once."""
