"""The backends, and which of them runs a call."""

from fastssm.backends.choice import (
    BACKENDS,
    ENVIRONMENT,
    NAMES,
    Plan,
    availability,
    backend,
    explain,
    make_request,
    reasons,
    select,
    select_for_score,
)
from fastssm.backends.request import Backend, Request

__all__ = [
    "BACKENDS",
    "ENVIRONMENT",
    "NAMES",
    "Backend",
    "Plan",
    "Request",
    "availability",
    "backend",
    "explain",
    "make_request",
    "reasons",
    "select",
    "select_for_score",
]
