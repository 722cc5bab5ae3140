"""Server-sent events, incrementally, from chunks cut anywhere (WHATWG HTML 9.2.6, "Interpreting an event stream").

Lines end with LF, CRLF or CR; a CR at the end of a chunk waits for the next one, which may begin with its LF.
The text is decoded per line, so no UTF-8 sequence is ever cut. An event that the end of the stream leaves open
is dropped, as the specification says.
"""

from dataclasses import dataclass

MAX_EVENT_BYTES = 32 * 1024 * 1024  # as large as the largest request: inline images come back in one event


class EventTooLarge(Exception):
    """One event grew past MAX_EVENT_BYTES."""


@dataclass(frozen=True, slots=True)
class Event:
    """One dispatched event: `name` is "" where the stream gave none; data lines are joined by LF."""

    name: str
    data: str


class Decoder:
    """Feed it chunks of bytes; it returns the events that they complete."""

    __slots__ = ("_buffer", "_data", "_name", "_size")

    def __init__(self) -> None:
        self._buffer = b""
        self._name = ""
        self._data: list[str] = []
        self._size = 0

    def feed(self, chunk: bytes) -> list[Event]:
        """The events completed by this chunk, in order. Raises EventTooLarge."""
        buffer = self._buffer + chunk if self._buffer else chunk
        held = b""
        if buffer.endswith(b"\r"):  # perhaps the first half of CRLF
            buffer, held = buffer[:-1], b"\r"
        if b"\r" in buffer:
            buffer = buffer.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *lines, rest = buffer.split(b"\n")
        self._buffer = rest + held
        if self._size + len(self._buffer) > MAX_EVENT_BYTES:
            raise EventTooLarge(f"an event is larger than {MAX_EVENT_BYTES} bytes")
        return [event for line in lines if (event := self._line(line)) is not None]

    def _line(self, line: bytes) -> Event | None:
        if not line:
            return self._dispatch()
        field, _, value = line.partition(b":")
        value = value[1:] if value[:1] == b" " else value
        if field == b"data":
            self._data.append(value.decode("utf-8", "replace"))
            self._size += len(value)
        elif field == b"event":
            self._name = value.decode("utf-8", "replace")
        return None  # `id`, `retry`, comments and unknown fields mean nothing here

    def _dispatch(self) -> Event | None:
        event = Event(self._name, "\n".join(self._data)) if self._data else None
        self._name, self._data, self._size = "", [], 0
        return event
