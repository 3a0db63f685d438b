"""A mail server that does as it is told: smtp.py OPTIONS, a JSON object. It tells its port and then what arrives, a JSON
object a line, and ends when its standard input does.

starttls, smtps  offer it, with a certificate for 127.0.0.1 whose authority is written to the file `ca`
user, password   who may send
rcpt, data       answers to one command after another, null or none at all for a good one; "hold" keeps what has come,
                 tells it and never answers
deaf             does not answer a farewell
smtputf8         offer it
"""

import asyncio
import email
import email.policy
import json
import ssl
import sys

import trustme
from aiosmtpd.smtp import SMTP, AuthResult

OPTIONS = json.loads(sys.argv[1])


def tell(**what):
    print(json.dumps(what), flush=True)


def read(content):
    message = email.message_from_bytes(content, policy=email.policy.default)
    parts = [
        {
            "type": part.get_content_type(),
            "charset": part.get_content_charset(),
            "disposition": part.get_content_disposition(),
            "name": part.get_filename(),
            "content": None if part.is_multipart() else part.get_payload(decode=True).decode(),
        }
        for part in message.walk()
    ]
    return {
        "headers": {name: str(value) for name, value in message.items()},
        "parts": parts,
        "defects": [str(defect) for part in message.walk() for defect in part.defects],
        "longest_line": max(map(len, content.split(b"\r\n"))),
    }


class Handler:
    def answer(self, command):
        answers = OPTIONS.get(command) or []
        return answers.pop(0) if answers else None

    async def handle_RCPT(self, server, session, envelope, address, options):
        refusal = self.answer("rcpt")
        if refusal:
            tell(refused=address)
            return refusal
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        answer = self.answer("data")
        tell(
            mail_from=envelope.mail_from,
            rcpt_to=envelope.rcpt_tos,
            encrypted=server.transport.get_extra_info("ssl_object") is not None,
            user=session.auth_data and session.auth_data.login.decode(),
            **read(envelope.content),
        )
        if answer == "hold":
            await asyncio.Event().wait()
        return answer or "250 OK"

    async def handle_QUIT(self, server, session, envelope):
        if OPTIONS.get("deaf"):
            await asyncio.Event().wait()
        return "221 Bye"


def authenticate(server, session, envelope, mechanism, data):
    good = (data.login.decode(), data.password.decode()) == (OPTIONS["user"], OPTIONS["password"])
    return AuthResult(success=good, handled=False, auth_data=data)


async def main():
    context = None
    if OPTIONS.get("starttls") or OPTIONS.get("smtps"):
        authority = trustme.CA()
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert("127.0.0.1").configure_cert(context)
        authority.cert_pem.write_to_path(OPTIONS["ca"])
    settings = {"hostname": "mail.test", "enable_SMTPUTF8": OPTIONS.get("smtputf8", False), "tls_context": context if OPTIONS.get("starttls") else None}
    if "user" in OPTIONS:
        settings |= {"authenticator": authenticate, "auth_required": True, "auth_require_tls": False}
    loop = asyncio.get_running_loop()
    listening = await loop.create_server(
        lambda: SMTP(Handler(), **settings), "127.0.0.1", 0, ssl=context if OPTIONS.get("smtps") else None
    )
    tell(port=listening.sockets[0].getsockname()[1])
    await loop.run_in_executor(None, sys.stdin.read)


asyncio.run(main())
