"""A registry of one image, as far as skopeo asks: HTTP on loopback, a password if one is given."""

from __future__ import annotations

import base64
import contextlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

MANIFEST = "application/vnd.oci.image.manifest.v1+json"


@contextlib.contextmanager
def serving(built, login=""):
    """The registry's state: ``address``, ``asked`` (paths of blobs and manifests), ``image``."""

    state = SimpleNamespace(image=built, asked=[], address="")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            wanted = "Basic " + base64.b64encode(login.encode()).decode()
            if login and self.headers.get("Authorization") != wanted:
                self.answer(401, b"", ("WWW-Authenticate", 'Basic realm="test"'))
            elif self.path == "/v2/":
                self.answer(200, b"{}")
            else:
                self.give(self.path.split("/"))

        do_HEAD = do_GET

        def give(self, parts):
            digest, blobs = state.image.blobs()
            kind, name = parts[-2:]
            state.asked.append((kind, name))
            data = blobs.get(digest if kind == "manifests" and name == "v1" else name)
            if data is None:
                self.answer(404, b'{"errors": [{"code": "MANIFEST_UNKNOWN"}]}')
                return
            of = MANIFEST if kind == "manifests" else "application/octet-stream"
            self.answer(200, data, ("Content-Type", of))

        def answer(self, code, data, *headers):
            self.send_response(code)
            for name, value in (*headers, ("Content-Length", str(len(data)))):
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.address = f"127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
