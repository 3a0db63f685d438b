#!/usr/bin/env python3
"""Reads `cargo metadata` and prints the crates that are in the binary: name, version, licence, a line each."""

import json
import sys

metadata = json.load(sys.stdin)
packages = {package["id"]: package for package in metadata["packages"]}
nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
reached, waiting = set(), [metadata["resolve"]["root"]]
while waiting:
    current = waiting.pop()
    if current not in reached:
        reached.add(current)
        # Neither what tests nor what builds need.
        waiting += [
            dependency["pkg"]
            for dependency in nodes[current]["deps"]
            if any(kind["kind"] is None for kind in dependency["dep_kinds"])
        ]
reached.discard(metadata["resolve"]["root"])
for package in sorted((packages[key] for key in reached), key=lambda package: (package["name"], package["version"])):
    print(package["name"], package["version"], package["license"] or package["license_file"], sep="\t")
