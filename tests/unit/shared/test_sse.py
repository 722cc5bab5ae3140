"""Server-sent events come out as they went in, however the bytes were cut and whatever ends their lines."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared import sse
from shared.sse import Decoder, Event, EventTooLarge

LINE_ENDS = [b"\n", b"\r\n", b"\r"]
line = st.text().map(lambda text: text.replace("\r", " ").replace("\n", " "))
data = st.lists(line, min_size=1, max_size=3).map("\n".join)
events = st.lists(st.builds(Event, name=line, data=data), max_size=5)


@st.composite
def encoded(draw: st.DrawFn) -> tuple[list[Event], bytes]:
    """Events, and the bytes of a stream that holds them, among comments and fields that mean nothing."""
    given_, end = draw(events), draw(st.sampled_from(LINE_ENDS))
    noise = st.sampled_from([b"", b": ping", b":", b"id: 7", b"retry: 10", b"unknown: x", b"nothing"])
    lines: list[bytes] = []
    for event in given_:
        if event.name or draw(st.booleans()):
            lines.append(b"event: " + event.name.encode())
        for text in event.data.split("\n"):
            space = b" " if text.startswith(" ") or draw(st.booleans()) else b""
            lines.append(b"data:" + space + text.encode())
            lines += [extra] if (extra := draw(noise)) else []
        lines.append(b"")
    return given_, b"".join(one + end for one in lines)


@st.composite
def pieces(draw: st.DrawFn, whole: bytes) -> list[bytes]:
    places = sorted(draw(st.lists(st.integers(0, len(whole)), max_size=20)))
    return [whole[start:end] for start, end in zip([0, *places], [*places, len(whole)], strict=True)]


def decode(chunks: list[bytes]) -> list[Event]:
    decoder = Decoder()
    return [event for chunk in [*chunks, b"\n"] for event in decoder.feed(chunk)]  # the LF frees a CR that waits


@given(encoded(), st.data())
def test_any_events_cut_anywhere_come_out_as_they_went_in(
    stream: tuple[list[Event], bytes], data: st.DataObject
) -> None:
    expected, whole = stream
    assert decode(data.draw(pieces(whole))) == expected
    assert decode([whole[place : place + 1] for place in range(len(whole))]) == expected


@given(encoded(), st.data())
def test_an_event_comes_out_with_its_last_byte_and_not_before(
    stream: tuple[list[Event], bytes], data: st.DataObject
) -> None:
    expected, whole = stream
    cut = data.draw(st.integers(0, len(whole)))
    came = Decoder().feed(whole[:cut])
    assert came == expected[: len(came)]


@given(st.lists(st.binary()))
def test_whatever_bytes_come_nothing_breaks(chunks: list[bytes]) -> None:
    assert decode(chunks) == decode([b"".join(chunks)])


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (b"data: open", []),
        (b"data: a\n", []),
        (b"event: x\n\n", []),
        (b"event: x\n\ndata: a\n\n", [Event("", "a")]),
        (b"data\n\n", [Event("", "")]),
        (b"data:  two\n\n", [Event("", " two")]),
        (b"data: a: b\n\n", [Event("", "a: b")]),
        (b"data: a\r\ndata: b\r\n\r\n", [Event("", "a\nb")]),
        (b": only\n: comments\n\n", []),
        (b"data: \xff\n\n", [Event("", "\ufffd")]),
    ],
)
def test_the_specifications_cases(stream: bytes, expected: list[Event]) -> None:
    assert Decoder().feed(stream) == expected


@pytest.mark.parametrize("chunk", [b"x" * 60, b"data: " + b"x" * 40 + b"\n", b"data: x\n" * 10])
def test_an_event_without_an_end_is_refused_before_it_fills_the_memory(
    chunk: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sse, "MAX_EVENT_BYTES", 100)
    decoder = Decoder()
    with pytest.raises(EventTooLarge):
        list(map(decoder.feed, [chunk] * 20))


def test_many_events_are_not_taken_for_a_large_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "MAX_EVENT_BYTES", 100)
    decoder = Decoder()
    assert sum(len(decoder.feed(b"data: " + b"x" * 50 + b"\n\n")) for _ in range(20)) == 20
