import re

from services.billing.accounts import digest, make_secret, public_id


def test_a_key_has_a_public_id_of_12_characters_and_a_secret_of_256_bits() -> None:
    made = make_secret()
    assert re.fullmatch(r"sk-optk-[A-Za-z0-9]{12}-[A-Za-z0-9_-]{43}", made)
    assert public_id(made) == made.split("-")[2]
    assert make_secret() != made


def test_a_key_of_another_form_is_shown_by_its_digest_never_by_its_text() -> None:
    assert public_id("sk-demo") == digest("sk-demo")[:12]
    assert public_id("sk-optk-short-key") == digest("sk-optk-short-key")[:12]
