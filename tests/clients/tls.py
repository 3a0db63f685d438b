"""A TLS client on the OpenSSL of this machine, by way of Python's standard library: what was agreed on is asked of the
library. What `openssl s_client` prints is for people, and another version words it differently.

Reads one JSON object: `address`, and optionally `version` ("TLSv1_2": nothing older or newer is offered), `ciphers` (in
OpenSSL's words), `trusts` (a certificate in PEM, which must then be valid for `name`), `resumes` (connects twice, the
second time with the session of the first). Prints one: `refused` with OpenSSL's reason, or `version`, `cipher`, `resumed`,
`certificate` in PEM, and with `trusts` its `subject` and `names`.
"""

import json
import socket
import ssl
import sys
import warnings

warnings.simplefilter("ignore")  # old versions are offered on purpose
asked = json.load(sys.stdin)
host, port = asked["address"].rsplit(":", 1)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.check_hostname = "trusts" in asked
context.verify_mode = ssl.CERT_REQUIRED if "trusts" in asked else ssl.CERT_NONE
if "trusts" in asked:
    context.load_verify_locations(cadata=asked["trusts"])
if "ciphers" in asked:
    context.set_ciphers(asked["ciphers"])
if "version" in asked:
    version = ssl.TLSVersion[asked["version"]]
    context.minimum_version = context.maximum_version = version


def connect(session=None):
    plain = socket.create_connection((host, int(port)), timeout=20)
    return context.wrap_socket(plain, server_hostname=asked.get("name", "localhost"), session=session)


try:
    stream = connect()
    if asked.get("resumes"):
        # In TLS 1.3 the ticket comes behind the handshake, with the answer.
        stream.sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        while stream.recv(4096):
            pass
        first, stream = stream, connect(stream.session)
        first.close()
except ssl.SSLError as error:
    print(json.dumps({"refused": error.reason or str(error)}))
    sys.exit()
certificate = stream.getpeercert() or {}
print(
    json.dumps(
        {
            "version": stream.version(),
            "cipher": stream.cipher()[0],
            "resumed": stream.session_reused,
            "certificate": ssl.DER_cert_to_PEM_cert(stream.getpeercert(binary_form=True)),
            "subject": [list(pair) for part in certificate.get("subject", ()) for pair in part],
            "names": [list(pair) for pair in certificate.get("subjectAltName", ())],
        }
    )
)
