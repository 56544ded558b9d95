"""An enrolment is looked after while the agent runs: in time, not by all at once, in few words when it goes wrong."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tacit.client import upkeep
from tacit.client.connection import TurnedAway, Unreachable
from tacit.client.directory import AgentDirectory, init
from tacit.client.enrolled import ENROLMENT, Enrolled, read_enrolled, write_enrolled
from tacit.client.upkeep import Care, Upkeep, enrolment_of
from tacit.models.enrolment import Federation
from tacit.models.errors import InputError
from tacit.models.key_file import kept_identity
from tacit.privacy.identity import Certificate, Identity
from tacit.server.tls_authority import der, new_authority

DAY = 86_400
LIFE = 300 * DAY
BEGAN = 1_800_000_000
COORDINATOR = Identity(b"c" * 32)
AUTHORITIES = tuple(der(new_authority("wards", datetime.now(UTC)).certificate) for _ in range(2))


@dataclass
class World:
    """A clock, and a coordinator that says what it is told to say."""

    directory: AgentDirectory
    now: float = BEGAN
    authorities: tuple[bytes, ...] = AUTHORITIES[:1]
    error: Exception | None = None
    asked: list[float] = field(default_factory=list)
    renewals: list[float] = field(default_factory=list)
    organisation: Identity | None = None
    certificates: list[Certificate] = field(default_factory=list)

    def certificate(self, serial: int = 1) -> Certificate:
        key = self.directory.identity.public_key
        return Certificate(
            client="north",
            organisation="hospital" if self.organisation else "north",
            subject_key=key,
            organisation_key=self.organisation.public_key if self.organisation else key,
            authority_key=COORDINATOR.public_key,
            serial=serial,
            expires_at=int(self.now) + LIFE,
        )

    def enrolled(self) -> Enrolled:
        federation = Federation("wards", COORDINATOR.public_key, COORDINATOR.public_key, LIFE, BEGAN)
        made = Enrolled("https://127.0.0.1:9", AUTHORITIES[:1], federation, self.certificate())
        write_enrolled(self.directory.path / ENROLMENT, made)
        return made

    @property
    def kept(self) -> Enrolled:
        found = read_enrolled(self.directory.path / ENROLMENT, self.directory.identity)
        assert found is not None
        return found

    def refresh(self, enrolled: Enrolled, **more: Any) -> Enrolled:
        self.asked.append(self.now)
        if self.error is not None:
            raise self.error
        return replace(enrolled, authorities=self.authorities)

    def renew(self, enrolled: Enrolled, member: Identity, *, organisation: Identity | None, **more: Any) -> Enrolled:
        assert (organisation or member).public_key == enrolled.certificate.organisation_key
        self.renewals.append(self.now)
        return replace(enrolled, certificate=self.certificate(enrolled.certificate.serial + 1))

    def upkeep(self, draw: Callable[[float, float], float] | None = None) -> Upkeep:
        return Upkeep(
            self.directory, self.enrolled(), self.certificates.append, care=Care(nap=LIFE), clock=lambda: self.now,
            draw=draw or random.Random(3).uniform,
        )  # fmt: skip

    def live(self, care: Upkeep, days: float) -> None:
        """Let time pass, as the thread would: a turn, and a nap until something is due."""
        until = self.now + days * DAY
        while self.now < until:
            self.now = min(self.now + care.turn(), until)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    made = World(init(tmp_path / "north", "north"))
    monkeypatch.setattr(upkeep, "refresh", made.refresh)
    monkeypatch.setattr(upkeep, "renew", made.renew)
    yield made


def test_certificates_follow_each_other_for_years_without_a_restart(world: World) -> None:
    care = world.upkeep()
    world.live(care, days=3 * 365)
    assert len(world.renewals) in (4, 5)  # one in 200 to 250 days
    assert care.enrolled.certificate.expires_at > world.now and care.enrolled == world.kept
    assert [one.serial for one in world.certificates] == list(range(1, len(world.renewals) + 2))


def test_a_certificate_is_renewed_in_the_first_half_of_its_last_third_and_not_by_all_at_once(
    world: World, tmp_path: Path
) -> None:
    moments = []
    for at in range(12):
        world.now, world.renewals = BEGAN, []
        care = world.upkeep(random.Random(at).uniform)
        world.live(care, days=260)
        moments.append((world.renewals[0] - BEGAN) / DAY)
    assert all(200 <= moment <= 250 + 1 for moment in moments)
    assert max(moments) - min(moments) > 20 and len({round(moment) for moment in moments}) > 6


def test_new_authorities_are_learnt_within_hours_and_used_for_the_next_connection(world: World) -> None:
    care = world.upkeep()
    care.turn()
    before = care.address
    world.authorities = AUTHORITIES
    world.live(care, days=0.5)
    assert care.enrolled.authorities == AUTHORITIES == world.kept.authorities and world.renewals == []
    assert care.address.tls is not before.tls


def test_the_coordinator_is_asked_a_few_times_a_day(world: World) -> None:
    world.live(world.upkeep(), days=10)
    assert len(world.asked) in range(10 * 4, 10 * 6)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (Unreachable("127.0.0.1:9: Connection refused"), "127.0.0.1:9: Connection refused"),
        (TurnedAway(403, "revoked: north was revoked"), "revoked: north was revoked"),
        (InputError("this machine's clock is 900 s behind the coordinator's", where="clock"), "900 s behind"),
    ],
)
def test_what_goes_wrong_is_said_once_and_tried_again_until_it_is_right(
    world: World, error: Exception, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    care = world.upkeep()
    world.error = error
    world.live(care, days=2)
    assert len(world.asked) > 2 * 96 * 0.9  # every quarter of an hour, or a little sooner
    world.error = None
    world.live(care, days=1)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2 and said[0].startswith("the coordinator was not asked for news: ") and told in said[0]
    assert said[1] == "the enrolment is in order again"


def test_a_renewal_that_fails_is_in_time_all_the_same(world: World, caplog: pytest.LogCaptureFixture) -> None:
    care = world.upkeep()
    world.live(care, days=190)
    world.error = Unreachable("the coordinator is away")
    world.live(care, days=100)  # almost to the end
    assert "the certificate ends on" in caplog.text and "is not renewed yet: the coordinator is away" in caplog.text
    world.error = None
    world.live(care, days=0.1)
    assert len(world.renewals) == 1 and care.enrolled.certificate.serial == 2


def test_a_certificate_that_has_ended_says_what_to_do_once(world: World, caplog: pytest.LogCaptureFixture) -> None:
    care = world.upkeep()
    world.live(care, days=150)
    world.error = TurnedAway(403, "expired: the certificate of north has ended; it needs a new invitation")
    caplog.clear()
    world.now += 160 * DAY
    world.live(care, days=3)
    (line,) = [record.getMessage() for record in caplog.records]
    assert "the certificate of north ended on" in line and "tacit coordinator invite --name north --again" in line
    with pytest.raises(InputError, match="ended on") as caught:
        enrolment_of(world.directory, world.now)
    assert "\n" not in str(caught.value)


def test_what_another_process_has_renewed_is_taken_over_from_the_file(world: World) -> None:
    care = world.upkeep()
    care.turn()
    world.now += 10 * DAY
    newer = replace(care.enrolled, certificate=world.certificate(2))
    write_enrolled(world.directory.path / ENROLMENT, newer)
    care.turn()
    assert care.enrolled == newer and world.certificates[-1] == newer.certificate


def test_a_member_of_an_organisation_renews_with_its_key_or_says_that_it_needs_it(
    world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    world.organisation = kept_identity(tmp_path / "organisation.key", "organisation")
    care = world.upkeep()
    world.live(care, days=260)
    assert world.renewals == [] and "renewal: needs the key of hospital" in caplog.text
    settings = world.directory.settings.model_copy(update={"organisation_key": str(tmp_path / "organisation.key")})
    world.directory = replace(world.directory, settings=settings)
    care._directory = world.directory
    world.live(care, days=0.1)
    assert len(world.renewals) == 1


def test_an_enrolment_that_cannot_be_written_is_not_used(world: World, caplog: pytest.LogCaptureFixture) -> None:
    care = world.upkeep()
    before = care.enrolled
    world.authorities = AUTHORITIES
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(upkeep, "write_enrolled", refuse)
        world.live(care, days=0.5)
        assert care.enrolled == before and "the disk is full" in caplog.text
    world.live(care, days=0.5)
    assert care.enrolled.authorities == AUTHORITIES


def refuse(path: Path, enrolled: Enrolled) -> None:
    raise InputError("the disk is full", where=str(path))
