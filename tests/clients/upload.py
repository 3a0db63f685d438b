"""Uploads a file with `tuspy`, with a checksum on every request; "broken" stops in the middle and resumes.

Reads {"endpoint", "token", "file", "how"} from stdin, and prints the address of the upload.
"""

import json
import sys

from tusclient.client import TusClient

asked = json.load(sys.stdin)
client = TusClient(asked["endpoint"], headers={"Authorization": f"Bearer {asked['token']}"})


def uploader(url=None):
    return client.uploader(
        asked["file"],
        chunk_size=200_000,
        url=url,
        upload_checksum=True,
        metadata={"filename": "from-python.bin", "filetype": "application/x-test"},
    )


upload = uploader()
if asked["how"] == "broken":
    upload.upload(stop_at=500_000)
    upload = uploader(upload.url)
    assert 0 < upload.offset < upload.get_file_size(), upload.offset
upload.upload()
print(upload.url)
