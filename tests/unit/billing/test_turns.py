import threading

import pytest

from services.billing import turns
from services.billing.turns import computing, give_way


def decoder(order: list[str]) -> threading.Thread:
    def decode() -> None:
        give_way()
        order.append("decoded")

    thread = threading.Thread(target=decode)
    thread.start()
    return thread


def test_whoever_decodes_goes_on_when_the_writer_has_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "PATIENCE_S", 60)
    order = list[str]()
    with computing():
        waiting = decoder(order)
        order.append("computed")
    waiting.join()
    assert order == ["computed", "decoded"]


def test_a_writer_that_fails_lets_others_go_on_and_one_that_hangs_does_so_after_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(turns, "PATIENCE_S", 60)
    with pytest.raises(ZeroDivisionError), computing():
        _ = 1 / 0
    decoder([]).join()
    monkeypatch.setattr(turns, "PATIENCE_S", 0.01)
    with computing():
        decoder([]).join()
