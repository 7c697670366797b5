"""The backends, and which of them runs a call."""

from fastssm.backends.choice import (
    BACKENDS,
    ENVIRONMENT,
    NAMES,
    Plan,
    again,
    availability,
    backend,
    explain,
    make_request,
    reasons,
    select,
)
from fastssm.backends.fused import Fused
from fastssm.backends.request import Backend, Denoiser, OnePass, Request

__all__ = [
    "BACKENDS",
    "ENVIRONMENT",
    "NAMES",
    "Backend",
    "Denoiser",
    "Fused",
    "OnePass",
    "Plan",
    "Request",
    "again",
    "availability",
    "backend",
    "explain",
    "make_request",
    "reasons",
    "select",
]
