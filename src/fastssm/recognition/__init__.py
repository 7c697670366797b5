"""Recognition: a module as a network that the engines run, or why not, remembered between calls."""

from fastssm.recognition.cache import Recognised, recognised, recognize, recognize_cached
from fastssm.recognition.fingerprint import Fingerprint
from fastssm.recognition.matching import HOOKS, wrapper_of
from fastssm.recognition.network import Layer, Network, Refusal, parameters_of, parametrized
from fastssm.recognition.tracing import Traced

__all__ = [
    "HOOKS",
    "Fingerprint",
    "Layer",
    "Network",
    "Recognised",
    "Refusal",
    "Traced",
    "parameters_of",
    "parametrized",
    "recognised",
    "recognize",
    "recognize_cached",
    "wrapper_of",
]
