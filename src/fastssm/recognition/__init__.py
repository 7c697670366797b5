"""Recognition: a module as a network that the engines run, or why not, remembered between calls."""

from fastssm.recognition.cache import recognize, recognize_cached
from fastssm.recognition.fingerprint import Fingerprint
from fastssm.recognition.matching import wrapper_of
from fastssm.recognition.network import Layer, Network, Refusal, parameters_of
from fastssm.recognition.tracing import Traced

__all__ = [
    "Fingerprint",
    "Layer",
    "Network",
    "Refusal",
    "Traced",
    "parameters_of",
    "recognize",
    "recognize_cached",
    "wrapper_of",
]
