#!/usr/bin/env python3
"""Writes an OCI image as a tar file of an image layout (OCI image specification 1.1): a layer of Debian's files, one of ours,
the configuration. The same inputs give the same bytes: names are sorted, times are SOURCE_DATE_EPOCH."""

import argparse
import datetime
import gzip
import hashlib
import io
import json
import os
import pathlib
import re
import tarfile

# As on every machine (systemd/sysusers.d): a volume goes from one to the other.
USER = 650
DATA = "var/lib/salebell/files"
# What may be changed: they are volumes where the rest is read-only.
WRITABLE = [(DATA, 0o750), ("tmp", 0o1777), ("var/tmp", 0o1777)]

ACCOUNTS = {
    "etc/passwd": ["root:x:0:0:root:/:/usr/sbin/nologin", f"salebell:x:{USER}:{USER}::/:/usr/sbin/nologin"],
    "etc/group": ["root:x:0:", f"salebell:x:{USER}:"],
    "etc/nsswitch.conf": ["passwd: files", "group: files", "hosts: files dns", "services: files"],
}

SETTINGS = {
    "SALEBELL_SERVER__LISTEN": "0.0.0.0:8080",
    "SALEBELL_SERVER__GRPC_LISTEN": "0.0.0.0:9000",
    # The health check is `salebell ready`: it asks this, and fails when there is no 200 within so many seconds. Not
    # /readyz: a container that is begun anew would not mend a database.
    "SALEBELL_INSTANCE__READY_URL": "http://127.0.0.1:8080/healthz",
    "SALEBELL_INSTANCE__READY_LIMIT_S": "3",
}


def entry(name, mode, epoch, kind=tarfile.REGTYPE, owner=0):
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.mtime = kind, mode, epoch
    info.uid = info.gid = owner
    return info


def file(layer, name, content, mode, epoch):
    info = entry(name, mode, epoch)
    info.size = len(content)
    layer.addfile(info, io.BytesIO(content))


def our_layer(root, epoch):
    """The files below `root`, accounts, and the folders that are written to."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as layer:
        folders = set()

        def folder(name, mode=0o755, owner=0):
            parent = os.path.dirname(name)
            if parent:
                folder(parent)
            if name not in folders:
                folders.add(name)
                layer.addfile(entry(name, mode, epoch, tarfile.DIRTYPE, owner))

        for name, mode in WRITABLE:
            folder(name, mode, USER if name == DATA else 0)
        folder("etc")
        for name, lines in ACCOUNTS.items():
            file(layer, name, "".join(f"{line}\n" for line in lines).encode(), 0o644, epoch)
        for path in sorted(path for path in root.rglob("*") if path.is_file()):
            name = path.relative_to(root).as_posix()
            folder(os.path.dirname(name))
            file(layer, name, path.read_bytes(), 0o755 if os.access(path, os.X_OK) else 0o644, epoch)
    return buffer.getvalue()


def configuration(arguments, epoch, layers):
    created = datetime.datetime.fromtimestamp(epoch, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    labels = {
        "org.opencontainers.image.title": "salebell",
        "org.opencontainers.image.description": "Rings when a video game goes on sale",
        "org.opencontainers.image.version": arguments.version,
        "org.opencontainers.image.revision": arguments.revision,
        "org.opencontainers.image.created": created,
        "org.opencontainers.image.licenses": "MIT OR Apache-2.0",
    }
    return {
        "created": created,
        "architecture": arguments.architecture,
        "os": "linux",
        "config": {
            "User": f"{USER}:{USER}",
            "ExposedPorts": {"8080/tcp": {}, "9000/tcp": {}},
            "Env": ["PATH=/usr/bin", *(f"{name}={value}" for name, value in SETTINGS.items())],
            "Entrypoint": ["/usr/bin/salebell"],
            "Cmd": ["api"],
            "Volumes": {f"/{name}": {} for name, _ in WRITABLE},
            "WorkingDir": "/",
            "StopSignal": "SIGTERM",
            "Labels": labels,
            # Reserved by the specification for Docker; Podman does not read it, others have it in what describes the task.
            "Healthcheck": {
                "Test": ["CMD", "/usr/bin/salebell", "ready"],
                "Interval": 10_000_000_000,
                "Timeout": 5_000_000_000,
                "StartPeriod": 30_000_000_000,
                "Retries": 3,
            },
        },
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}" for layer in layers]},
        "history": [
            {"created": created, "created_by": "packaging/image/make-base.sh", "comment": "Debian"},
            {"created": created, "created_by": "packaging/image/write-image.py", "comment": "Salebell"},
        ],
    }


def compact(value):
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("base", "root", "architecture", "version", "revision", "output"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--level", default="", help="of gzip; without it the best")
    arguments = parser.parse_args()
    epoch = int(os.environ["SOURCE_DATE_EPOCH"])
    layers = [pathlib.Path(arguments.base).read_bytes(), our_layer(pathlib.Path(arguments.root), epoch)]

    blobs = {}

    def blob(content, media_type):
        digest = hashlib.sha256(content).hexdigest()
        blobs[digest] = content
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(content)}

    config = blob(compact(configuration(arguments, epoch, layers)), "application/vnd.oci.image.config.v1+json")
    packed = [gzip.compress(layer, int(arguments.level or 9), mtime=0) for layer in layers]
    manifest = blob(
        compact(
            {
                "schemaVersion": 2,
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "config": config,
                "layers": [blob(layer, "application/vnd.oci.image.layer.v1.tar+gzip") for layer in packed],
            }
        ),
        "application/vnd.oci.image.manifest.v1+json",
    )
    # A tag has neither ~ nor +, which a version may have.
    manifest["annotations"] = {"org.opencontainers.image.ref.name": re.sub(r"[^\w.-]", "-", arguments.version)}
    manifest["platform"] = {"architecture": arguments.architecture, "os": "linux"}
    index = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [manifest]}

    with tarfile.open(arguments.output, mode="w", format=tarfile.PAX_FORMAT) as archive:
        file(archive, "oci-layout", compact({"imageLayoutVersion": "1.0.0"}), 0o644, epoch)
        file(archive, "index.json", compact(index), 0o644, epoch)
        for name in ("blobs", "blobs/sha256"):
            archive.addfile(entry(name, 0o755, epoch, tarfile.DIRTYPE))
        for digest, content in sorted(blobs.items()):
            file(archive, f"blobs/sha256/{digest}", content, 0o644, epoch)
    print(f"sha256:{hashlib.sha256(blobs[manifest['digest'][7:]]).hexdigest()}")


if __name__ == "__main__":
    main()
