#!/usr/bin/env python3
"""Writes manifest.json and sbom.cdx.json (CycloneDX 1.6) from the contents of the image, as list-contents.sh lists them, and from
the crates that were compiled into the binary. The same contents yield the same files: their time is that of the commit."""

import argparse
import datetime
import hashlib
import json
import pathlib
import tarfile
import uuid

from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import LicenseExpression
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL


def crates_in_binary(metadata):
    """The crates that the binary consists of, as `cargo metadata` resolved them: no development dependencies."""
    packages = {package["id"]: package for package in metadata["packages"]}
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    reached, waiting = set(), [metadata["resolve"]["root"]]
    while waiting:
        current = waiting.pop()
        if current in reached:
            continue
        reached.add(current)
        for dependency in nodes[current]["deps"]:
            if any(kind["kind"] is None for kind in dependency["dep_kinds"]):
                waiting.append(dependency["pkg"])
    reached.discard(metadata["resolve"]["root"])
    return sorted((packages[id] for id in reached), key=lambda package: (package["name"], package["version"]))


def debian_packages(listed):
    for line in listed.splitlines():
        name, version, architecture = line.split("\t")
        yield {"name": name, "version": version, "architecture": architecture}


def checksums(listed):
    return {name: checksum for checksum, name in (line.split(maxsplit=1) for line in listed.splitlines())}


def sbom(arguments, debian, packages, crates, binary_sha256):
    """The image, with Debian's packages and the binary, which has the crates."""
    image = Component(name=arguments.name, version=arguments.version, type=ComponentType.OPERATING_SYSTEM, bom_ref="image")
    bom = Bom(serial_number=uuid.uuid5(uuid.NAMESPACE_URL, f"{arguments.name}/{binary_sha256}"))
    bom.metadata.component = image
    bom.metadata.timestamp = datetime.datetime.fromtimestamp(arguments.committed_at, datetime.UTC)
    bom.metadata.properties.add(Property(name="salebell:commit", value=arguments.commit))

    binary = Component(
        name="salebell",
        version=arguments.version,
        type=ComponentType.APPLICATION,
        bom_ref="binary",
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=binary_sha256)],
    )
    bom.components.add(binary)
    from_debian, from_cargo = [], []
    for package in packages:
        qualifiers = {"arch": package["architecture"], "distro": f"debian-{debian.split('.')[0]}"}
        url = PackageURL("deb", "debian", package["name"], package["version"], qualifiers)
        from_debian.append(Component(name=package["name"], version=package["version"], purl=url, bom_ref=url.to_string()))
    for crate in crates:
        url = PackageURL("cargo", None, crate["name"], crate["version"])
        # Old crates write MIT/Apache-2.0 for MIT OR Apache-2.0.
        licence = (crate["license"] or "").replace("/", " OR ")
        from_cargo.append(
            Component(
                name=crate["name"],
                version=crate["version"],
                purl=url,
                bom_ref=url.to_string(),
                licenses=[LicenseExpression(licence)] if licence else [],
            )
        )
    bom.components.update(from_debian, from_cargo)
    bom.register_dependency(image, [binary, *from_debian])
    bom.register_dependency(binary, from_cargo)
    return JsonV1Dot6(bom).output_as_string(indent=1) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("name", "version", "commit", "architecture"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--committed-at", type=int, required=True)
    for name in ("contents", "crates", "output"):
        parser.add_argument(f"--{name}", type=pathlib.Path, required=True)
    arguments = parser.parse_args()

    with tarfile.open(arguments.contents) as archive:
        contents = {
            pathlib.Path(member.name).name: archive.extractfile(member).read().decode()
            for member in archive.getmembers()
            if member.isfile()
        }
    packages = list(debian_packages(contents["packages.tsv"]))
    files = checksums(contents["files.sha256"])
    debian = contents["debian_version"].strip()
    crates = crates_in_binary(json.loads(arguments.crates.read_text()))
    parts_list = sbom(arguments, debian, packages, crates, files["/usr/bin/salebell"])
    manifest = {
        "schema": 1,
        "name": arguments.name,
        "version": arguments.version,
        "commit": arguments.commit,
        "committed_at": arguments.committed_at,
        "architecture": arguments.architecture,
        "debian": debian,
        "kernels": contents["kernels"].split(),
        "sbom": {"file": "sbom.cdx.json", "sha256": hashlib.sha256(parts_list.encode()).hexdigest()},
        "files": files,
        "packages": {package["name"]: package["version"] for package in packages},
    }
    (arguments.output / "sbom.cdx.json").write_text(parts_list)
    (arguments.output / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
    print(f"manifest of {len(packages)} packages and {len(files)} files; SBOM of {parts_list.count('bom-ref')} parts")


if __name__ == "__main__":
    main()
