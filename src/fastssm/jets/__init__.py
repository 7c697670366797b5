"""Taylor-mode derivatives through any module: value, tangents and curvature of what its forward computes.

The rules are imported when a model is first tried on jets (`table`), so that `import fastssm` stays quick.
"""

from fastssm.jets.jet import Jet, NoRule, Tape

__all__ = ["Jet", "NoRule", "Tape"]
