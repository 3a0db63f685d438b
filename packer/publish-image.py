#!/usr/bin/env python3
"""Runs after the bake: makes every copy of the image require IMDSv2, checks that the image is as the template demands, and, if
requested, uploads the manifest, the SBOM and the migration (the binary, for the database) to S3. image.json names the
image."""

import argparse
import hashlib
import json
import pathlib
import sys
import urllib.parse
import zipfile

import boto3

ROOT = pathlib.Path(__file__).resolve().parents[1]
# Files that a migration job needs besides the binary and the manifest (pipelines/migrate.yaml).
OF_MIGRATION = ("Makefile", "pipelines/migrate.yaml", "scripts/pipelines/migrate.sh")
AUTHORITIES = "packer/files/etc/salebell/rds.pem"


def images(packer_manifest):
    """(region, AMI id) of every copy, from what Packer's manifest post-processor wrote."""
    last = packer_manifest["last_run_uuid"]
    build = next(build for build in packer_manifest["builds"] if build["packer_run_uuid"] == last)
    return [tuple(part.split(":", 1)) for part in build["artifact_id"].split(",")]


def problems(image, shared_with, arguments, commit):
    if image["State"] != "available":
        yield f"is {image['State']}"
    tags = {tag["Key"]: tag["Value"] for tag in image.get("Tags", [])}
    if tags.get("Version") != commit:
        yield f"has no tag Version={commit}"
    if image.get("Public"):
        yield "is public"
    if missing := set(arguments.accounts.split()) - shared_with:
        yield f"is not shared with {', '.join(sorted(missing))}"
    if arguments.endpoint:
        return  # moto forgets encryption in copies, and knows no ImdsSupport
    if image.get("ImdsSupport") != "v2.0":
        yield "does not demand IMDSv2"
    for mapping in image["BlockDeviceMappings"]:
        if "Ebs" in mapping and not mapping["Ebs"]["Encrypted"]:
            yield f"{mapping['DeviceName']} is not encrypted"


def write_migration(path, binary, manifest):
    """The archive that a job of the environment's account migrates by: the binary is that of the image, or this is an error."""
    text = binary.read_bytes()
    if hashlib.sha256(text).hexdigest() != manifest["files"]["/usr/bin/salebell"]:
        sys.exit(f"{binary} is not the /usr/bin/salebell of the image")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("salebell", text)
        archive.write(path.parent / "manifest.json", "manifest.json")
        archive.write(ROOT / AUTHORITIES, "rds.pem")
        for name in OF_MIGRATION:
            archive.write(ROOT / name, name)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--regions", required=True, help="regions that must have a copy")
    parser.add_argument("--accounts", default="", help="accounts that must be allowed to launch it")
    parser.add_argument("--endpoint", default="", help="address of an emulated AWS")
    parser.add_argument("--publish-to", default="", help="s3://bucket/prefix")
    parser.add_argument("--binary", type=pathlib.Path, required=True, help="the binary that is in the image")
    arguments = parser.parse_args()
    manifest = json.loads((arguments.output / "manifest.json").read_text())
    packer_manifest = json.loads((arguments.output / "packer-manifest.json").read_text())

    copies = images(packer_manifest)
    found = [f"no image in {region}" for region in arguments.regions.split() if region not in dict(copies)]
    for region, image_id in copies:
        ec2 = boto3.client("ec2", region_name=region, endpoint_url=arguments.endpoint or None)
        ec2.get_waiter("image_available").wait(ImageIds=[image_id], WaiterConfig={"Delay": 15, "MaxAttempts": 120})
        ec2.modify_image_attribute(ImageId=image_id, ImdsSupport={"Value": "v2.0"})
        image = ec2.describe_images(ImageIds=[image_id])["Images"][0]
        permissions = ec2.describe_image_attribute(ImageId=image_id, Attribute="launchPermission")["LaunchPermissions"]
        shared_with = {permission.get("UserId") for permission in permissions}
        found += [f"{image_id} in {region} {what}" for what in problems(image, shared_with, arguments, manifest["commit"])]
        print(f"{image_id} in {region}: {image['Name']}")
    if found:
        sys.exit("\n".join(found))

    if arguments.publish_to:
        write_migration(arguments.output / "migrate.zip", arguments.binary, manifest)
        target = urllib.parse.urlsplit(arguments.publish_to)
        s3 = boto3.client("s3", endpoint_url=arguments.endpoint or None)
        for name in ("manifest.json", "sbom.cdx.json", "migrate.zip"):
            key = f"{target.path.strip('/')}/{manifest['name']}/{name}".lstrip("/")
            s3.upload_file(str(arguments.output / name), target.netloc, key)
            print(f"s3://{target.netloc}/{key}")
    # Written last: a reader that finds it finds everything. The Makefile reads the id with a pattern.
    known = {key: manifest[key] for key in ("name", "version", "commit", "architecture")}
    image = {"image": dict(copies)[arguments.regions.split()[0]], **known, "regions": dict(copies)}
    (arguments.output / "image.json").write_text(json.dumps(image, indent=1) + "\n")


if __name__ == "__main__":
    main()
