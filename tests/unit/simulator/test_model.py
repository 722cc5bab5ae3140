"""The model's rules hold for every text: what is counted, where it ends, and how it is cut."""

from hypothesis import given
from hypothesis import strategies as st

from services.simulator.delivery import odd_pieces
from services.simulator.directives import Directives
from services.simulator.model import Generation, count, generate, reply
from services.simulator.script import Frame

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=300)


def say(text: str, *, max_tokens: int = 1000, stops: tuple[str, ...] = (), **members: int) -> Generation:
    return generate(text, "", max_tokens=max_tokens, stops=stops, directives=Directives(**members))


@given(TEXTS)
def test_pieces_make_up_the_text_and_their_running_count_ends_at_its_count(text: str) -> None:
    said = say(text)
    assert said.text == text
    assert [*said.running_tokens][-1:] == [count(text)][: len(said.pieces)]
    assert all(said.pieces)


@given(TEXTS, st.integers(1, 100))
def test_a_limit_is_reached_exactly_and_never_passed(text: str, limit: int) -> None:
    said = say(text, max_tokens=limit)
    assert count(said.text) == min(limit, count(text))
    assert (said.end == "max_tokens") == (count(text) > limit)


@given(TEXTS, st.integers(1, 300), st.integers(1, 50))
def test_wanted_tokens_and_chunks_are_met_exactly(text: str, tokens: int, chunks: int) -> None:
    assert count(say(text, tokens=tokens).text) == tokens
    assert len(say(text, chunks=chunks).pieces) == chunks


@given(TEXTS, st.text(min_size=1, max_size=2))
def test_nothing_is_said_from_a_stop_sequence_on(text: str, stop: str) -> None:
    said = say(text, stops=(stop,))
    assert stop not in said.text
    assert (said.stop == stop) == (stop in text)


def test_the_reply_echoes_the_beginning_of_what_was_said() -> None:
    assert "“hello world”" in reply("hello\n  world [[tokens=3]]")
    assert "…" in reply("x" * 100)


@given(st.lists(st.binary(min_size=1, max_size=60), min_size=1, max_size=20), st.binary(min_size=32, max_size=32))
def test_odd_pieces_lose_nothing(frames: list[bytes], seed: bytes) -> None:
    pieces = [*odd_pieces([Frame(data) for data in frames], seed)]
    assert b"".join(pieces) == b"".join(frames)
    assert all(pieces)


def test_one_write_ends_inside_a_character() -> None:
    pieces = [*odd_pieces([Frame("data: 안녕\n\n".encode())], bytes(32))]
    assert any(0x80 <= piece[0] < 0xC0 for piece in pieces)
