"""The warning and the error that are fastssm's own; everything else is ValueError or TypeError."""

from __future__ import annotations


class FastSSMWarning(UserWarning):
    """Something is legal but will not do what its author hopes."""


class UnsupportedError(RuntimeError):
    """A backend was named that cannot run this call; the message lists every reason and the remedy."""
