"""Objects of the user's own modules, named as `module:name`."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any


def find(option: str, name: str) -> Any:
    """Return what `module:name` names; modules of the current folder are found too.

    Args:
        option: the option, for messages.
        name: its value.

    Raises:
        ValueError: if there is no such module or name, or the module cannot be imported.
    """
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        raise ValueError(f"{option} must look like module:name, got {name!r}")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{option} {name}: {error}") from error
    except Exception as error:
        raise ValueError(f"{option} {name}: importing {module} fails ({type(error).__name__}: {error})") from error
