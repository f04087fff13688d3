"""Tiny images, made here: layers from lists of entries, as layouts and as docker archives."""

from __future__ import annotations

import functools
import gzip
import hashlib
import io
import json
import os
import platform
import shutil
import struct
import tarfile
from dataclasses import dataclass, field

import pytest

from kubarium.node.oci.config import this_platform

INDEX = "application/vnd.oci.image.index.v1+json"


def entry(name, data=b"", *, mode=0o644, kind=tarfile.REGTYPE, link="", pax=None, **more):
    """One member of a layer and its content."""
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.linkname, info.size = kind, mode, link, len(data)
    info.pax_headers = pax or {}
    for key, value in more.items():
        setattr(info, key, value)
    return info, data


def folder(name, mode=0o755, **more):
    return entry(name, mode=mode, kind=tarfile.DIRTYPE, **more)


def link(name, target):
    return entry(name, kind=tarfile.SYMTYPE, link=target)


def hard_link(name, target):
    return entry(name, kind=tarfile.LNKTYPE, link=target)


def layer(*entries):
    """A tar archive."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for info, data in entries:
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def sha256(data):
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@dataclass
class Built:
    """An image: its layers as tar archives, its config's ``config``, its platform."""

    layers: list
    config: dict = field(default_factory=dict)
    architecture: str = ""
    compress: object = functools.partial(gzip.compress, mtime=0)

    def blobs(self):
        """(manifest's digest, all blobs by digest)."""
        here = this_platform()
        config = {
            "architecture": self.architecture or here.architecture,
            "os": "linux",
            "config": self.config,
            "rootfs": {"type": "layers", "diff_ids": [sha256(tar) for tar in self.layers]},
        }
        blobs = {}

        def put(data):
            blobs[sha256(data)] = data
            return {"digest": sha256(data), "size": len(data)}

        manifest = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": put(json.dumps(config).encode())
            | {"mediaType": "application/vnd.oci.image.config.v1+json"},
            "layers": [
                put(self.compress(tar))
                | {"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip"}
                for tar in self.layers
            ],
        }
        return put(json.dumps(manifest).encode())["digest"], blobs

    def layout(self, path, tag="v1", more=(), index=None):
        """Write an OCI layout; ``more`` are further blobs, ``index`` its entries instead."""
        digest, blobs = self.blobs()
        os.makedirs(path / "blobs/sha256", exist_ok=True)
        for data in (*blobs.values(), *more):
            (path / "blobs/sha256" / sha256(data).partition(":")[2]).write_bytes(data)
        entries = index or [
            {
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "digest": digest,
                "size": len(blobs[digest]),
                "annotations": {"org.opencontainers.image.ref.name": tag},
            }
        ]
        (path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
        (path / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": entries}))
        return digest

    def archive(self, path, names=("example.com/app:v1",)):
        """Write what ``docker save`` writes."""
        digest, blobs = self.blobs()
        config = blobs[json.loads(blobs[digest])["config"]["digest"]]
        with tarfile.open(path, "w") as archive:

            def put(name, data):
                archive.addfile(*(lambda e: (e[0], io.BytesIO(e[1])))(entry(name, data)))

            put("config.json", config)
            for number, tar in enumerate(self.layers):
                put(f"{number}/layer.tar", tar)
            listed = [f"{number}/layer.tar" for number in range(len(self.layers))]
            saved = [{"Config": "config.json", "RepoTags": list(names), "Layers": listed}]
            put("manifest.json", json.dumps(saved).encode())


def as_archive(source, target):
    """An OCI layout as one tar archive."""
    with tarfile.open(target, "w") as archive:
        archive.add(source, arcname=".")


_BASE, _START = 0x400000, 64 + 56


def hello_program(text=b"hello from an image\n", code=7):
    """A static program that prints ``text`` and exits, put together by hand."""
    make = _by_machine(_x86, _arm)
    return _elf(make(_BASE + _START, text, code) + text)


def whoami_program():
    """A static program whose exit code is its effective user's number, modulo 256."""
    x86 = b"\xb8\x6b\x00\x00\x00\x0f\x05\x89\xc7\xb8\x3c\x00\x00\x00\x0f\x05"
    arm = struct.pack("<4I", 0xD28015E8, 0xD4000001, 0xD2800BA8, 0xD4000001)
    return _elf(_by_machine(x86, arm))


def _by_machine(x86, arm):
    machine = platform.machine()
    if machine not in ("x86_64", "aarch64"):
        pytest.skip(f"no machine code at hand for {machine}")
    return x86 if machine == "x86_64" else arm


def _elf(body):
    base, start, kind = _BASE, _START, _by_machine(62, 183)
    size = start + len(body)
    head = b"\x7fELF\x02\x01\x01" + bytes(9)
    head += struct.pack("<HHIQQQIHHHHHH", 2, kind, 1, base + start, 64, 0, 0, 64, 56, 1, 64, 0, 0)
    head += struct.pack("<IIQQQQQQ", 1, 5, 0, base, base, size, size, 0x1000)
    return head + body


def _x86(at, text, code):
    length = 5 + 5 + 10 + 5 + 2 + 5 + 5 + 2
    return (
        b"\xb8\x01\x00\x00\x00"  # mov eax, write
        b"\xbf\x01\x00\x00\x00"  # mov edi, stdout
        + b"\x48\xbe" + struct.pack("<Q", at + length)  # movabs rsi, text
        + b"\xba" + struct.pack("<I", len(text))  # mov edx, length
        + b"\x0f\x05"  # syscall
        + b"\xb8\x3c\x00\x00\x00"  # mov eax, exit
        + b"\xbf" + struct.pack("<I", code)  # mov edi, code
        + b"\x0f\x05"
    )  # fmt: skip


def _arm(at, text, code):
    def movz(register, value):
        return 0xD2800000 | (value & 0xFFFF) << 5 | register

    length = 4 * 8
    words = [
        movz(8, 64),  # write
        movz(0, 1),
        0x10000000 | 1 | ((length - 8) >> 2) << 5,  # adr x1, text
        movz(2, len(text)),
        0xD4000001,  # svc
        movz(8, 93),  # exit
        movz(0, code),
        0xD4000001,
    ]
    return struct.pack("<8I", *words)


def static_busybox():
    """Path of a busybox that needs no libraries; skips without one."""
    for path in ("/bin/busybox", "/usr/bin/busybox", shutil.which("busybox")):
        if path and os.path.exists(path) and _is_static(path):
            return path
    pytest.skip("needs a static busybox (Debian: busybox-static)")
    raise AssertionError


def _is_static(path):
    with open(path, "rb") as file:
        data = file.read(4096)
    if data[:4] != b"\x7fELF":
        return False
    offset, count = struct.unpack_from("<Q", data, 32)[0], struct.unpack_from("<H", data, 56)[0]
    kinds = [struct.unpack_from("<I", data, offset + 56 * i)[0] for i in range(count)]
    return 3 not in kinds  # PT_INTERP


def busybox(config=None, *extra):
    """An image with a shell and the usual programs, and some accounts."""
    with open(static_busybox(), "rb") as file:
        program = file.read()
    names = "sh cat echo id ls sleep env touch mkdir stat hostname mount ps wc test true false"
    names += " nc wget chmod chown mknod dd tar pwd grep kill trap rm ln readlink head tty nproc"
    tools = [hard_link(f"bin/{name}", "bin/busybox") for name in names.split()]
    passwd = b"root:x:0:0::/root:/bin/sh\napp:x:1234:2345::/home/app:/bin/sh\n"
    groups = b"root:x:0:\napp:x:2345:\naudio:x:29:app\n"
    base = [
        folder("bin"),
        entry("bin/busybox", program, mode=0o755),
        *tools,
        folder("etc"),
        entry("etc/passwd", passwd),
        entry("etc/group", groups),
        folder("tmp", 0o1777),
        folder("root", 0o700),
        folder("home"),
        folder("home/app", uid=1234, gid=2345),
    ]
    return Built([layer(*base), *extra], {"Cmd": ["sh"]} | (config or {}))
