import base64
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.billing.checkpoint import Checkpoint, NoteError, PublicKey, SigningKey, verified
from services.billing.keys import make_key, public_file, read_key, read_public_keys

# The example of the format's first implementation (golang.org/x/mod/sumdb/note).
SECRET = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
PUBLIC = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
TEXT = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
SIGNATURE = "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM="

KEY = SigningKey.of(SECRET)
ROOT = bytes(range(32))
NOTE = KEY.sign(0, 14, ROOT)
FOREIGN = "— somebody.else AAAABBBBCCCCDDDD\n"


def test_keys_and_signatures_are_those_of_the_format_everybody_else_uses() -> None:
    assert KEY.encoded() == SECRET
    assert str(KEY.public) == PUBLIC
    assert PublicKey.of(PUBLIC) == PublicKey.of(f"{KEY.public}\n")
    assert base64.b64encode(KEY.public.id + KEY.key.sign(TEXT.encode())).decode() == SIGNATURE


def test_a_checkpoint_is_origin_size_and_root_then_an_empty_line_and_the_signature() -> None:
    lines = NOTE.splitlines()
    assert lines[:4] == ["PeterNeumann/0", "14", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=", ""]
    assert lines[4].startswith("— PeterNeumann x08go")
    assert verified(NOTE, [KEY.public]) == Checkpoint("PeterNeumann/0", 14, ROOT)


def test_signatures_of_witnesses_stand_beside_ours_and_are_no_hindrance() -> None:
    assert verified(NOTE + FOREIGN, [KEY.public]).size == 14
    text, ours = NOTE.split("\n\n")
    assert verified(f"{text}\n\n{FOREIGN}{ours}", [KEY.public]).size == 14


@given(st.integers(0, len(NOTE) - 1), st.characters(exclude_categories=["Cs"]))
def test_a_note_of_which_any_character_was_changed_is_refused(at: int, character: str) -> None:
    changed = NOTE[:at] + character + NOTE[at + 1 :]
    if changed != NOTE:
        with pytest.raises(NoteError):
            verified(changed, [KEY.public])


def test_a_signature_has_one_form_only() -> None:
    """Base64 has bits that nothing reads: the last character before the padding has others that decode alike."""
    assert NOTE.endswith("=\n")
    last = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    for character in last:
        if character != NOTE[-3]:
            with pytest.raises(NoteError):
                verified(f"{NOTE[:-3]}{character}=\n", [KEY.public])


@pytest.mark.parametrize(
    "note",
    ["", "\n\n", NOTE[:-1], NOTE + "\n", NOTE.split("\n\n")[0], NOTE.replace("\n\n", "\n"), NOTE + "- x y\n",
     NOTE.replace("— PeterNeumann ", "— PeterNeumann  "), "x" * 100_000],
)  # fmt: skip
def test_what_is_no_signed_note_is_refused(note: str) -> None:
    with pytest.raises(NoteError):
        verified(note, [KEY.public])


@pytest.mark.parametrize("text", ["", "a\n1\n", "a\n01\nAAAA\n", "a\n-1\n" + "A" * 43 + "=\n", "a\n1\n!!\n", "\n1\n\n"])
def test_a_signed_text_that_is_no_checkpoint_is_refused(text: str) -> None:
    with pytest.raises(NoteError):
        Checkpoint.of(text)


@pytest.mark.parametrize(
    "text", ["", "a+b", PUBLIC[:-4], PUBLIC.replace("c74f20a3", "c74f20a4"), PUBLIC.replace("Peter", "Paul"), SECRET]
)
def test_what_is_no_public_key_is_refused(text: str) -> None:
    with pytest.raises(NoteError):
        PublicKey.of(text)


@pytest.mark.parametrize(
    "text", ["", PUBLIC, SECRET[:-4], SECRET.replace("Peter", "Paul"), SECRET.replace("c74", "c75")]
)
def test_what_is_no_signing_key_is_refused_without_being_repeated(text: str) -> None:
    with pytest.raises(NoteError) as caught:
        SigningKey.of(text)
    assert not text or text not in str(caught.value)


def test_a_key_is_made_so_that_only_its_owner_reads_it_and_its_public_half_lies_beside_it(tmp_path: Path) -> None:
    file = tmp_path / "keys" / "signing.key"
    made = make_key(file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert read_key(file).encoded() == made.encoded()
    assert [str(key) for key in read_public_keys(public_file(file))] == [str(made.public)]
    assert sorted(path.name for path in file.parent.iterdir()) == ["signing.key", "signing.key.pub"]


def test_after_a_key_is_replaced_old_checkpoints_still_verify_and_each_only_by_its_own_key(tmp_path: Path) -> None:
    file = tmp_path / "signing.key"
    old = make_key(file)
    before = old.sign(0, 1, ROOT)
    new = make_key(file)
    after = new.sign(0, 2, ROOT)
    assert old.name == new.name
    known = read_public_keys(public_file(file))
    assert [verified(note, known).size for note in (before, after)] == [1, 2]
    for note, stranger in ((before, new), (after, old)):
        with pytest.raises(NoteError, match="not signed by any of the keys given"):
            verified(note, [stranger.public])
