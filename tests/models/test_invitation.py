"""An invitation survives copy and paste, and whatever damage it took is found and named."""

import base64
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.models.errors import InputError
from tacit.models.invitation import Invitation, coordinator_address
from tacit.privacy.codec import sha256

INVITATION = Invitation(
    url="https://coordinator.example:9092",
    ca_sha256=bytes(range(32)),
    name="north",
    organisation="hospital-north",
    expires_at=1_800_000_000,
    secret=bytes(range(100, 132)),
)
TOKEN = INVITATION.text()

names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._@:-]{0,63}", fullmatch=True)
invitations = st.builds(
    Invitation,
    url=st.sampled_from(["https://a:1", "https://10.0.0.7:9092", "https://[::1]:65535", "https://a.b.example:443"]),
    ca_sha256=st.binary(min_size=32, max_size=32),
    name=names,
    organisation=names | st.just(""),
    expires_at=st.integers(1, (1 << 63) - 1),
    secret=st.binary(min_size=32, max_size=32),
)


def refused(text: str) -> str:
    with pytest.raises(InputError) as caught:
        Invitation.parse(text)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@given(invitations)
def test_every_invitation_comes_back_from_its_token(invitation: Invitation) -> None:
    token = invitation.text()
    assert token.isascii() and token.isalnum()
    assert Invitation.parse(token) == invitation


@given(st.lists(st.integers(0, len(TOKEN)), max_size=8), st.sampled_from([" ", "\n", "\r\n", "\t"]), st.booleans())
def test_line_breaks_spaces_and_upper_case_do_no_harm(places: list[int], space: str, upper: bool) -> None:
    text = TOKEN.upper() if upper else TOKEN
    for place in sorted(places, reverse=True):
        text = text[:place] + space + text[place:]
    assert Invitation.parse(f"  {text}\n") == INVITATION


@given(st.integers(0, len(TOKEN) - 1), st.sampled_from("abcxyz234567"))
def test_a_letter_that_was_changed_is_found_wherever_it_is(place: int, letter: str) -> None:
    changed = TOKEN[:place] + letter + TOKEN[place + 1 :]
    if changed != TOKEN:
        assert "secret" not in refused(changed)


@given(st.integers(0, len(TOKEN) - 1))
def test_a_token_that_was_cut_off_is_refused(length: int) -> None:
    refused(TOKEN[:length])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        (" \n", "is empty"),
        ("hello", "does not begin with tacit1"),
        ("tacit", "does not begin with tacit1"),
        (TOKEN.replace("tacit1", "tacit2"), "another version"),
        (TOKEN.replace("tacit1", "tacit!"), "does not begin with tacit1"),
        (f"{TOKEN[:20]}1{TOKEN[21:]}", "character 21 belongs to no token"),
        (TOKEN[:-1] + "\u00e9", "belongs to no token"),
        (TOKEN + TOKEN, "belongs to no token"),
        ("tacit1a", "is incomplete"),
        ("tacit1", "changed or is missing"),
        (TOKEN[:-8], "changed or is missing"),
    ],
)
def test_each_kind_of_damage_has_a_line_of_its_own(text: str, message: str) -> None:
    assert message in refused(text)


def with_checksum(content: bytes) -> str:
    return "tacit1" + base64.b32encode(content + sha256(content)[:4]).decode().rstrip("=").lower()


def test_what_is_whole_but_no_invitation_is_refused() -> None:
    content = INVITATION.encode()
    for wrong in (b"", b"\x41" + content[1:], content + b"\0", content[:-1], content.replace(b"https", b"ftp:/")):
        assert "holds no invitation" in refused(with_checksum(wrong))


def test_neither_repr_nor_an_error_shows_the_secret() -> None:
    for shown in (repr(INVITATION), refused(TOKEN[:-9])):
        for secret in (INVITATION.secret.hex(), str(INVITATION.secret), TOKEN[20:60]):
            assert secret not in shown


def test_the_number_follows_from_the_public_half_of_the_secret() -> None:
    assert INVITATION.number == sha256(INVITATION.identity.public_key)[:16]
    assert replace(INVITATION, secret=bytes(32)).number != INVITATION.number


@pytest.mark.parametrize(
    "url",
    [
        "http://a:1",
        "https://a",
        "https://a:0",
        "https://a:70000",
        "https://:1",
        "https://a:1/",
        "https://a:1/x",
        "https://a:1?x",
        "https://a:1#",
        "https://me@a:1",
        "https://a b:1",
        "https://\u00e4:1",
        "https://[::1:1",
        "a:1",
        "",
    ],
)
def test_only_a_bare_https_url_leads_to_a_coordinator(url: str) -> None:
    with pytest.raises(ValueError, match="https://HOST:PORT"):
        coordinator_address(url)


def test_an_address_may_be_a_name_or_a_number() -> None:
    assert coordinator_address("https://[::1]:9092") == ("::1", 9092)
    assert INVITATION.address == ("coordinator.example", 9092)
