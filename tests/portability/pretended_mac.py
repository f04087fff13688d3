"""Put before ``kubarium`` in a copy of the package: the process believes that it is on a Mac.

What Python has on Linux only is taken away, as are ``/proc`` and ``/sys``, abstract sockets and the
loopback addresses besides 127.0.0.1. psutil keeps its ``/proc``: on a Mac it asks the kernel
otherwise. Nothing here is imported by the tests; it is text that a copy begins with.
"""


def _believe() -> None:
    import asyncio
    import builtins
    import ctypes
    import errno
    import multiprocessing.util  # noqa: F401
    import os
    import resource
    import signal
    import socket
    import subprocess  # noqa: F401
    import sys
    import types
    import urllib.request  # noqa: F401
    import zoneinfo  # noqa: F401

    try:
        import psutil
        import uvicorn  # noqa: F401
    except ImportError:
        psutil = None  # the zygote has no site-packages
    asyncio.DefaultEventLoopPolicy  # noqa: B018

    if sys.platform == "darwin":
        return
    sys.platform = "darwin"
    proxies = types.ModuleType("_scproxy")
    proxies._get_proxies = dict
    proxies._get_proxy_settings = dict
    sys.modules["_scproxy"] = proxies

    gone = {
        os: (
            "pidfd_open", "unshare", "setns", "memfd_create", "eventfd", "eventfd_read",
            "eventfd_write", "sched_getaffinity", "sched_setaffinity", "copy_file_range", "splice",
            "posix_fadvise", "posix_fallocate", "getxattr", "setxattr", "listxattr", "removexattr",
            "pipe2", "getrandom", "fdatasync", "waitid", "O_TMPFILE", "O_PATH", "O_DIRECT",
            "getresuid", "getresgid", "setresuid", "setresgid",
        ),
        signal: ("pidfd_send_signal", "sigtimedwait", "sigwaitinfo", "SIGRTMIN", "SIGRTMAX",
                 "SIGPWR", "SIGSTKFLT", "SIGPOLL"),
        socket: ("AF_NETLINK", "SO_PEERCRED", "SO_BINDTODEVICE", "AF_VSOCK", "AF_PACKET",
                 "MSG_CMSG_CLOEXEC", "SOCK_CLOEXEC", "SOCK_NONBLOCK", "AF_ALG", "SO_MARK",
                 "TCP_USER_TIMEOUT", "SO_DOMAIN", "SO_PROTOCOL", "TCP_QUICKACK", "IP_TRANSPARENT"),
        resource: ("prlimit", "RLIMIT_SIGPENDING", "RLIMIT_MSGQUEUE", "RLIMIT_NICE",
                   "RLIMIT_RTPRIO", "RLIMIT_RTTIME"),
    }  # fmt: skip
    for module, names in gone.items():
        for name in names:
            if hasattr(module, name):
                delattr(module, name)
    for name in [n for n in dir(os) if n.startswith(("CLONE_", "MFD_", "EFD_", "P_PIDFD"))]:
        delattr(os, name)

    if hasattr(os, "process_cpu_count"):  # since 3.13, by sched_getaffinity where there is one
        os.process_cpu_count = os.cpu_count

    own = os.path.dirname(psutil.__file__) if psutil is not None else None

    def hidden(path) -> bool:
        try:
            text = os.fsdecode(path)
        except TypeError:
            return False
        if not (text in ("/proc", "/sys") or text.startswith(("/proc/", "/sys/"))):
            return False
        frame = sys._getframe(2)
        while frame is not None:  # psutil may open through a helper of the standard library
            if own is not None and frame.f_code.co_filename.startswith(own):
                return False
            frame = frame.f_back
        return True

    def without(function):
        def call(path, *arguments, **options):
            if hidden(path):
                raise FileNotFoundError(errno.ENOENT, "No such file or directory", path)
            return function(path, *arguments, **options)

        return call

    builtins.open = without(builtins.open)
    for name in ("open", "stat", "lstat", "listdir", "scandir", "readlink", "access", "statvfs"):
        setattr(os, name, without(getattr(os, name)))
    import io

    io.open = builtins.open

    def elsewhere(self, address) -> None:
        if self.family == socket.AF_UNIX and str(address)[:1] == "\0":
            raise FileNotFoundError(errno.ENOENT, "No such file or directory")
        loopback = self.family == socket.AF_INET and str(address[0]).startswith("127.")
        if loopback and address[0] != "127.0.0.1":
            raise OSError(errno.EADDRNOTAVAIL, "Can't assign requested address")

    plain = socket.socket

    class Socket(plain):
        def __init__(self, family=-1, type=-1, *arguments, **options):
            if type == socket.SOCK_SEQPACKET:
                raise OSError(errno.EPROTONOSUPPORT, "Protocol not supported")
            super().__init__(family, type, *arguments, **options)

        def bind(self, address):
            elsewhere(self, address)
            return super().bind(address)

        def connect(self, address):
            elsewhere(self, address)
            return super().connect(address)

    socket.socket = Socket

    limit, limited = resource.setrlimit, resource.getrlimit

    def setrlimit(kind, limits):
        if kind == resource.RLIMIT_NOFILE and limits[0] > 10240:
            raise ValueError("current limit exceeds maximum limit")
        return limit(kind, limits)

    def getrlimit(kind):
        soft, hard = limited(kind)
        return (min(soft, 256), hard) if kind == resource.RLIMIT_NOFILE else (soft, hard)

    resource.setrlimit, resource.getrlimit = setrlimit, getrlimit
    library = ctypes.CDLL

    def dynamic(name=None, *arguments, **options):
        if name is not None and ".so" in str(name):
            raise OSError(f"dlopen({name}): no such file")
        return library(name, *arguments, **options)

    ctypes.CDLL = dynamic


_believe()
