"""
Stands in for the OpenCode program where a test needs one that misbehaves, or many at once: it starts in no time.

Run by its wrapper as: stub_opencode.py MANNER VERSION serve --hostname HOST --port PORT
"""

import base64
import json
import os
import socket
import struct
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

REFUSED = "/stub/refused"
"""Tells whoever has the password how often somebody was refused who had none, as a probe has none."""
MANNERS = ("sound", "unhealthy", "missing", "hangs", "resets", "open")
STRANGER = "stranger refused"
"""Said on stdout when somebody came with credentials of another server."""
EMPTY_LISTS = ("/experimental/session", "/permission", "/question", "/pty")
"""It has no sessions, and so nobody at work: `/session/status` is an object without any, as everything else is."""
LINGER_NONE = struct.pack("ii", 1, 0)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    manner = "sound"
    version = ""
    password = ""
    refused = 0

    def do_GET(self) -> None:
        if self.manner == "hangs":
            threading.Event().wait()
        if self.manner == "resets":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NONE)
            self.close_connection = True
            return
        if not self._admits():
            self._answer(401, {})
        elif self.path == REFUSED:
            self._answer(200, {"refused": self.refused})
        elif self.manner == "missing":
            self._answer(404, {})
        elif self.path.startswith("/global/health"):
            healthy = self.manner != "unhealthy"
            self._answer(200 if healthy else 500, {"healthy": healthy, "version": self.version})
        elif self.path.partition("?")[0] in EMPTY_LISTS:
            self._answer(200, [])
        else:
            self._answer(200, {})

    def do_POST(self) -> None:
        """Do as it is told in no time: reload, open a session, answer a prompt, abort."""
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if not self._admits():
            self._answer(401, {})
        elif self.path == "/session":
            self._answer(200, {"id": "ses_stub"})
        elif self.path.partition("?")[0].endswith("/message"):
            info = {"role": "assistant", "time": {"created": 1, "completed": 2}}
            self._answer(200, {"info": info, "parts": [{"type": "text", "text": "I am a stub."}]})
        else:
            self._answer(200, True)

    def do_DELETE(self) -> None:
        self._answer(200, True) if self._admits() else self._answer(401, {})

    def _admits(self) -> bool:
        given = self.headers.get("Authorization", "")
        right = "Basic " + base64.b64encode(f"opencode:{self.password}".encode()).decode()
        if given == right or self.manner == "open":
            return True
        if not given:
            Handler.refused += 1
        else:
            sys.stdout.write(f"{STRANGER}\n")
            sys.stdout.flush()
        return False

    def _answer(self, status: int, value: object) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        if status == 401:
            self.send_header("WWW-Authenticate", 'Basic realm="stub"')
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


def main(arguments: list[str]) -> None:
    Handler.manner, Handler.version = arguments[0], arguments[1]
    assert Handler.manner in MANNERS
    Handler.password = os.environ["OPENCODE_SERVER_PASSWORD"]
    host, port = arguments[arguments.index("--hostname") + 1], arguments[arguments.index("--port") + 1]
    server = ThreadingHTTPServer((host, int(port)), Handler)
    server.daemon_threads = True
    sys.stdout.write(f"stub listening on http://{host}:{port}\n")
    sys.stdout.flush()
    server.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1:])
