"""Recognition: a module as a network that the engines run, or why not, remembered between calls."""

from fastssm.recognition.cache import recognize_cached
from fastssm.recognition.matching import recognize, wrapper_of
from fastssm.recognition.network import Layer, Network, Refusal, parameters_of

__all__ = [
    "Layer",
    "Network",
    "Refusal",
    "parameters_of",
    "recognize",
    "recognize_cached",
    "wrapper_of",
]
