"""A defect for an instance of the rehearsal: a proxy before the API that makes every third answer a 500.

What was asked for has been done then: only the answer is another. Health checks are not spoilt.
"""

import asyncio
import itertools
import ssl

SPOILT = 3
COUNT = itertools.count(1)
FOLDER = "/etc/spoil-answers/"
END = b"\r\n\r\n"

front = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
front.load_cert_chain(FOLDER + "certificate.pem", FOLDER + "key.pem")
# The API's certificate is its own.
behind = ssl.create_default_context()
behind.check_hostname = False
behind.verify_mode = ssl.CERT_NONE


async def copy(reader, writer):
    while piece := await reader.read(65536):
        writer.write(piece)
        await writer.drain()


async def answer(api, client, spoils):
    """Passes an answer on, and the informational ones before it."""
    while True:
        head = await api.readuntil(END)
        informs = head.split(b" ", 2)[1].startswith(b"1")
        if spoils and not informs:
            head = b"HTTP/1.1 500 Internal Server Error" + head[head.index(b"\r\n") :]
        client.write(head)
        if not informs:
            return await copy(api, client)


async def serve(reader, client):
    """One request; the connection ends with its answer."""
    writers = [client]
    sending = None
    try:
        head = await reader.readuntil(END)
        first, *lines = head.removesuffix(END).split(b"\r\n")
        is_check = first.split(b" ")[1] in (b"/healthz", b"/readyz")
        spoils = not is_check and next(COUNT) % SPOILT == 0
        kept = [line for line in lines if not line.lower().startswith((b"connection:", b"keep-alive:"))]
        api, to_api = await asyncio.open_connection("127.0.0.1", 8444, ssl=behind)
        writers.append(to_api)
        to_api.write(b"\r\n".join([first, *kept, b"Connection: close"]) + END)
        sending = asyncio.create_task(copy(reader, to_api))
        await answer(api, client, spoils)
        await client.drain()
    except (OSError, asyncio.IncompleteReadError, ssl.SSLError):
        # The client or the API is gone: so is the other's connection.
        pass
    finally:
        if sending:
            sending.cancel()
        for writer in writers:
            writer.close()


async def main():
    server = await asyncio.start_server(serve, "0.0.0.0", 8443, ssl=front)
    await server.serve_forever()


asyncio.run(main())
