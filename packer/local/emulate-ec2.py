"""An EC2 and an S3 on a free port of 127.0.0.1, for the bake: with Debian's machine images in it and a bucket. Prints its
address, ends with whoever holds the other side of its standard input, and writes down what the bake asks of it
(tests/clients/recorder.py)."""

import json
import os
import pathlib
import sys
import tempfile


def debian_image(architecture, owner):
    return {
        "ami_id": {"amd64": "ami-0000000000000000a", "arm64": "ami-0000000000000000b"}[architecture],
        "name": f"debian-13-{architecture}-20251117-2299",
        "description": "stands for Debian's",
        "owner_id": owner,
        "architecture": {"amd64": "x86_64", "arm64": "arm64"}[architecture],
        "public": True,
        "state": "available",
        "image_type": "machine",
        "platform": "Linux/UNIX",
        "hypervisor": "xen",
        "virtualization_type": "hvm",
        "root_device_name": "/dev/xvda",
        "root_device_type": "ebs",
        "sriov": "simple",
    }


with tempfile.NamedTemporaryFile("w", suffix=".json") as images:
    json.dump([debian_image(architecture, "136693071363") for architecture in ("amd64", "arm64")], images)
    images.flush()
    os.environ["MOTO_AMIS_PATH"] = images.name

    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1").create_bucket(Bucket="salebell-images")
    # The images are read at the first request to EC2.
    for region in ("eu-central-1", "eu-west-1"):
        boto3.client("ec2", endpoint_url=endpoint, region_name=region).describe_images(Owners=["136693071363"])
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "tests/clients"))
    import recorder

    recorder.record("bake")
    print(endpoint, flush=True)
    sys.stdin.read()
    os._exit(0)
