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
from pathlib import Path
from typing import NamedTuple

from cyclonedx.model import ExternalReference, ExternalReferenceType, HashAlgorithm, HashType, XsUri
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentScope, ComponentType
from cyclonedx.model.license import DisjunctiveLicense
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]


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


def component(part: Part, build: dict[str, str]) -> Component:
    """Return a part of a wheel; the record of its build has the versions of headers."""
    name = "torch" if part.name == "PyTorch" else part.name
    number = build.get(name)
    return Component(
        name=name,
        version=number,
        bom_ref=name,
        type=ComponentType.DATA if part.is_data else ComponentType.LIBRARY,
        purl=None if part.is_data else PackageURL("pypi", name=name, version=number),
        licenses=[DisjunctiveLicense(id=part.licence)],
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
        licenses=[DisjunctiveLicense(id=meta["License-Expression"])],
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=hashlib.sha256(wheel.read_bytes()).hexdigest())],
    )
    shipped = [p for p in parts() if any(fnmatch(name, pattern) for name in names for pattern in p.patterns)]
    inside = [component(part, build) for part in shipped]
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
