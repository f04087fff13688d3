"""gRPC probes: ``grpc.health.v1.Health/Check`` over plain HTTP/2 (source: ``pkg/probe/grpc``).

One unary call of a message with one field needs HTTP/2 framing and header compression, which ``h2``
has, and no more of gRPC than is here. Imported when the first such probe is made.
"""

from __future__ import annotations

import asyncio

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions

from kubarium.node.probes import FAILURE, SUCCESS, Connect, Outcome, reason

_READ_BYTES = 64 * 1024
# A health answer is two bytes; more than this is not one.
_MAX_ANSWER_BYTES = 4096
_STATUSES = {0: "UNKNOWN", 1: "SERVING", 2: "NOT_SERVING", 3: "SERVICE_UNKNOWN"}
# gRPC's codes, in their order.
_CODES = (
    *("OK", "Canceled", "Unknown", "InvalidArgument", "DeadlineExceeded", "NotFound"),
    *("AlreadyExists", "PermissionDenied", "ResourceExhausted", "FailedPrecondition", "Aborted"),
    *("OutOfRange", "Unimplemented", "Internal", "Unavailable", "DataLoss", "Unauthenticated"),
)
_UNIMPLEMENTED = 12


class RpcError(Exception):
    """The call failed: a gRPC code and message."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


async def grpc_probe(
    host: str, port: int, service: str, timeout_s: float, connect: Connect
) -> Outcome:
    """(outcome, message) in kubelet's words; a failure of any kind is a failed probe."""
    address = f"{host}:{port}"
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(timeout_s):
            try:
                reader, writer = await connect(host, port, None)
            except OSError as error:
                what = f'failed to connect service at "{address}"'
                return FAILURE, f"error: {what}: {reason(error)}"
            status = await _check(reader, writer, address, service)
    except TimeoutError:
        if writer is None:
            what = f'failed to connect service "{address}" within {timeout_s:g}s'
            return FAILURE, f"timeout: {what}: context deadline exceeded"
        return FAILURE, f"timeout: health rpc did not complete within {timeout_s:g}s"
    except RpcError as error:
        if error.code == _UNIMPLEMENTED:
            health = "the grpc health protocol (grpc.health.v1.Health)"
            return FAILURE, f"error: this server does not implement {health}: {error}"
        code = _CODES[error.code] if 0 <= error.code < len(_CODES) else f"Code({error.code})"
        text = f"rpc error: code = {code} desc = {error}"
        return FAILURE, f"error: health rpc probe failed: {text}"
    except (OSError, EOFError, h2.exceptions.ProtocolError) as error:
        text = f"rpc error: code = Unavailable desc = {error or 'connection closed'}"
        return FAILURE, f"error: health rpc probe failed: {text}"
    finally:
        if writer is not None:
            writer.close()
    if status != 1:
        shown = _STATUSES.get(status, str(status))
        return FAILURE, f'service unhealthy (responded with "{shown}")'
    return SUCCESS, ""


async def _check(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, address: str, service: str
) -> int:
    """The status in the answer; RpcError."""
    config = h2.config.H2Configuration(client_side=True, header_encoding="utf-8")
    connection = h2.connection.H2Connection(config)
    connection.initiate_connection()
    stream = connection.get_next_available_stream_id()
    headers = [
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", address),
        (":path", "/grpc.health.v1.Health/Check"),
        ("content-type", "application/grpc"),
        ("user-agent", "kube-probe/1.37"),
        ("te", "trailers"),
    ]
    connection.send_headers(stream, headers)
    connection.send_data(stream, _framed(_request(service)), end_stream=True)
    answer, said = b"", dict[str, str]()
    while True:
        writer.write(connection.data_to_send())
        await writer.drain()
        data = await reader.read(_READ_BYTES)
        if not data:
            raise EOFError("connection closed")
        for event in connection.receive_data(data):
            if isinstance(event, (h2.events.ResponseReceived, h2.events.TrailersReceived)):
                said |= {str(name): str(value) for name, value in event.headers}
            elif isinstance(event, h2.events.DataReceived):
                answer += event.data
                if len(answer) > _MAX_ANSWER_BYTES:
                    raise RpcError(8, "received message larger than max")
                connection.acknowledge_received_data(event.flow_controlled_length, stream)
            elif isinstance(event, h2.events.StreamReset):
                raise RpcError(14, f"stream terminated by RST_STREAM with code {event.error_code}")
            elif isinstance(event, h2.events.ConnectionTerminated):
                raise EOFError("connection closed by GOAWAY")
            elif isinstance(event, h2.events.StreamEnded):
                return _status(said, answer)


def _request(service: str) -> bytes:
    """HealthCheckRequest: field 1, the service's name; empty is the server as a whole."""
    name = service.encode()
    return b"" if not name else b"\x0a" + _varint(len(name)) + name


def _framed(message: bytes) -> bytes:
    return b"\x00" + len(message).to_bytes(4, "big") + message


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _status(said: dict[str, str], answer: bytes) -> int:
    if said.get(":status") != "200":
        http = said.get(":status")
        raise RpcError(14, f"unexpected HTTP status code received from server: {http}")
    try:
        code = int(said.get("grpc-status", "2"))
    except ValueError:
        code = 2
    if code:
        raise RpcError(code, said.get("grpc-message", ""))
    if len(answer) < 5 or answer[0]:
        raise RpcError(13, "malformed or compressed answer")
    return _enumeration(answer[5:])


def _enumeration(message: bytes) -> int:
    """HealthCheckResponse: field 1, a varint; absent is 0."""
    if not message:
        return 0
    if message[0] != 0x08:
        raise RpcError(13, "failed to unmarshal the received message")
    value = shift = 0
    for byte in message[1:]:
        value |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            return value
    raise RpcError(13, "failed to unmarshal the received message")
