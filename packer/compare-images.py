#!/usr/bin/env python3
"""compare-images.py A B: compares two local bakes file by file: kind, owner, mode, size, content, links, attributes and
times (those after the commit count as the commit's). Fails when they differ in more than allowed-differences names."""

import fnmatch
import hashlib
import json
import os
import pathlib
import stat
import sys


def digest(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def describe(root, committed_at):
    """Maps each path to everything that has to be the same about it."""
    found = {}
    for folder, folders, files in os.walk(root):
        for name in folders + files:
            path = os.path.join(folder, name)
            info = os.lstat(path)
            about = {
                "kind": stat.filemode(info.st_mode)[0],
                "mode": oct(stat.S_IMODE(info.st_mode)),
                "owner": f"{info.st_uid}:{info.st_gid}",
                "time": min(int(info.st_mtime), committed_at),
            }
            if stat.S_ISREG(info.st_mode):
                about["size"] = info.st_size
                about["content"] = digest(path)
            elif stat.S_ISLNK(info.st_mode):
                about["target"] = os.readlink(path)
            elif stat.S_ISCHR(info.st_mode) or stat.S_ISBLK(info.st_mode):
                about["device"] = info.st_rdev
            for attribute in sorted(os.listxattr(path, follow_symlinks=False)):
                about[attribute] = os.getxattr(path, attribute, follow_symlinks=False)
            found["/" + os.path.relpath(path, root)] = about
    return found


def main():
    first, second = (pathlib.Path(argument) for argument in sys.argv[1:3])
    allowed = [
        line.split("#")[0].strip()
        for line in pathlib.Path(__file__).with_name("allowed-differences").read_text().splitlines()
    ]
    allowed = [pattern for pattern in allowed if pattern]
    manifests = [json.loads((image / "manifest.json").read_text()) for image in (first, second)]
    if manifests[0]["commit"] != manifests[1]["commit"]:
        sys.exit("these are images of two commits")
    versions = [manifest["packages"] for manifest in manifests]
    if versions[0] != versions[1]:
        changed = [name for name in sorted({*versions[0], *versions[1]}) if versions[0].get(name) != versions[1].get(name)]
        sys.exit(f"Debian has other packages than at the first bake: {', '.join(changed)}")

    committed_at = manifests[0]["committed_at"]
    left, right = describe(first / "root", committed_at), describe(second / "root", committed_at)
    used, problems = set(), []
    for path in sorted({*left, *right}):
        if path not in left or path not in right:
            what = f"only in {'the first' if path in left else 'the second'}"
        elif left[path] != right[path]:
            what = ", ".join(key for key in {**left[path], **right[path]} if left[path].get(key) != right[path].get(key))
        else:
            continue
        pattern = next((pattern for pattern in allowed if fnmatch.fnmatchcase(path, pattern)), None)
        if pattern:
            used.add(pattern)
        else:
            problems.append(f"{path}: {what}")
    for problem in problems[:50]:
        print(problem, file=sys.stderr)
    for pattern in sorted(set(allowed) - used):
        print(f"allowed and not needed this time: {pattern}")
    if problems:
        sys.exit(f"{len(problems)} differences that allowed-differences does not name, of {len(left)} files")
    print(f"the same: {len(left)} files, but for {len(used)} of allowed-differences")


if __name__ == "__main__":
    main()
