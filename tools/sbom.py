"""Write a bill of materials (CycloneDX 1.6, JSON) beside each wheel: `python tools/sbom.py dist/*.whl`.

It has what THIRD_PARTY.md lists, as far as the wheel contains it, with versions, and what the wheel needs beside it.
"""

import email
import hashlib
import json
import re
import sys
import zipfile
from fnmatch import fnmatch
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from cyclonedx.factory.license import LicenseFactory
from cyclonedx.model import ExternalReference, ExternalReferenceType, HashType, XsUri
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentScope, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
LICENCES = LicenseFactory()


class Part(NamedTuple):
    """A row of THIRD_PARTY.md."""

    name: str
    patterns: list[str]
    licence: str
    source: str

    @property
    def is_data(self) -> bool:
        """Return whether it is a data set, which has no version and is on no index of packages."""
        return self.patterns[0].startswith("fastssm/data/")


def parts() -> list[Part]:
    """Return what THIRD_PARTY.md lists."""
    rows = re.findall(r"^\| (.+?) \| (.+?`) \| (\S+) \| (\S+) \|$", (ROOT / "THIRD_PARTY.md").read_text(), re.MULTILINE)
    return [Part(name, re.findall(r"`(.+?)`", where), licence, source) for name, where, licence, source in rows]


def versions(build: dict[str, str]) -> dict[str, str]:
    """Return the versions whose headers a module was compiled with, by the record of its build."""
    return {"PyTorch": build.get("torch", ""), "pybind11": version("pybind11") if "torch" in build else ""}


def component(part: Part, known: dict[str, str]) -> Component:
    """Return a part of a wheel."""
    name, number = {"PyTorch": "torch"}.get(part.name, part.name), known.get(part.name) or None
    return Component(
        name=name,
        version=number,
        bom_ref=name,
        type=ComponentType.DATA if part.is_data else ComponentType.LIBRARY,
        purl=None if part.is_data else PackageURL("pypi", name=name, version=number),
        licenses=[LICENCES.make_from_string(part.licence)],
        external_references=[ExternalReference(type=ExternalReferenceType.WEBSITE, url=XsUri(part.source))],
    )


def bill(wheel: Path) -> Bom:
    """Return the bill of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        meta = email.message_from_bytes(archive.read(next(n for n in names if n.endswith(".dist-info/METADATA"))))
        build = json.loads(archive.read("fastssm/_build.json"))
    ours = Component(
        name=meta["Name"],
        version=meta["Version"],
        bom_ref="fastssm",
        type=ComponentType.LIBRARY,
        purl=PackageURL("pypi", name=meta["Name"], version=meta["Version"], qualifiers={"file_name": wheel.name}),
        licenses=[LICENCES.make_from_string(meta["License-Expression"])],
        hashes=[HashType.from_hashlib_alg("sha256", hashlib.sha256(wheel.read_bytes()).hexdigest())],
    )
    shipped = [p for p in parts() if any(fnmatch(name, pattern) for name in names for pattern in p.patterns)]
    inside = [component(part, versions(build)) for part in shipped]
    needed = [Requirement(text) for text in meta.get_all("Requires-Dist", []) if "extra ==" not in text]
    beside = [
        Component(
            name=one.name,
            bom_ref=f"needs {one}",
            description=str(one),
            purl=PackageURL("pypi", name=one.name),
            scope=ComponentScope.REQUIRED,
        )
        for one in needed
    ]
    bom = Bom(components=[*inside, *beside])
    bom.metadata.component = ours
    bom.register_dependency(ours, [*inside, *beside])
    return bom


def main(wheels: list[str]) -> None:
    """Write and validate a bill for each wheel."""
    for wheel in map(Path, wheels):
        text = JsonV1Dot6(bill(wheel)).output_as_string(indent=2)
        if error := JsonStrictValidator(SchemaVersion.V1_6).validate_str(text):
            raise SystemExit(f"{wheel}: {error}")
        out = wheel.with_name(f"{wheel.stem}.cdx.json")
        out.write_text(text + "\n")
        print(out)


if __name__ == "__main__":
    main(sys.argv[1:])
