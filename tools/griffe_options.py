"""An extension of griffe, which reads the sources: show the signatures and docstrings that are made at import.

Those of the functions that `fastssm.options.takes` gives their options, and of the losses as modules. Examples are
shown as code, for which griffe wants their heading in the plural.
"""

from __future__ import annotations

import inspect
import re
from typing import Any, get_origin

import griffe

from fastssm import options

MODULES = re.compile(r"\b(?:torch|typing|collections\.abc|fastssm)\.(?:_?[A-Za-z]\w*\.)*")
ALIASES = {  # the names that the sources give to long types, longest first
    inspect.formatannotation(value): name
    for name, value in sorted(vars(options).items(), key=lambda item: -len(inspect.formatannotation(item[1])))
    if name[0].isupper() and get_origin(value) is not None
}


def shown(hint: Any) -> str:
    """Return an annotation as the page shows it: by the name of its alias, without the modules of names."""
    text = hint.__name__ if isinstance(hint, type) and not hasattr(hint, "__args__") else inspect.formatannotation(hint)
    for long, name in ALIASES.items():
        text = text.replace(long, name)
    text = re.sub(r"(?:typing\.)?Optional\[([^\[\]]*(?:\[[^\[\]]*\])?)\]", r"\1 | None", text)
    text = re.sub(r"(?:typing\.)?Literal\[([^\]]*)\]", lambda found: found[1].replace(", ", " | "), text)
    return MODULES.sub("", text)


def parameters(signature: inspect.Signature) -> griffe.Parameters:
    """Return the parameters of a signature as griffe has them."""
    return griffe.Parameters(
        *(
            griffe.Parameter(
                p.name,
                annotation=None if p.annotation is p.empty else shown(p.annotation),
                kind=griffe.ParameterKind(p.kind.description),
                default=None if p.default is p.empty else repr(p.default),
            )
            for p in signature.parameters.values()
        )
    )


class Options(griffe.Extension):
    """Replaces what was read by what is there at run time."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Visit a package that has been read."""
        self._visit(pkg)

    def _visit(self, parent: Any) -> None:
        for member in parent.members.values():
            if member.is_alias:
                continue
            if parent.is_module and (member.is_function or (member.is_class and "__init__" in member.members)):
                self._replace(member)
            if member.docstring:
                member.docstring.value = re.sub(r"^Example:$", "Examples:", member.docstring.value, flags=re.MULTILINE)
            if member.is_module or member.is_class:
                self._visit(member)

    def _replace(self, member: Any) -> None:
        found = griffe.dynamic_import(member.path)
        function = member.members["__init__"] if member.is_class else member
        real = found.__init__ if member.is_class else found
        if not hasattr(real, "__signature__") or member.docstring is None:
            return
        function.parameters, function.overloads = parameters(inspect.signature(real)), []
        (member.overloads if member.is_class else member.parent.overloads).pop(function.name, None)
        member.docstring.value = inspect.getdoc(found) or ""
