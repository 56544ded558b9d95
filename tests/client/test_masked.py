"""A member's part in masked rounds, against a coordinator in memory: once, in order, and nothing after it is over."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tacit.client.masked import MOST_OWED, MaskedMember, Membership
from tacit.models.broadcast import digest
from tacit.models.messages import MASKED_ACTIONS, Instruction, Reply
from tacit.privacy.codec import sha256
from tacit.privacy.errors import LocalProtocolError, PrivacyError, RemoteProtocolError
from tacit.privacy.identity import VerifiedSignatures
from tacit.privacy.randomness import Keystream, SeededRandomness
from tacit.privacy.secagg.encoding import encode
from tacit.privacy.secagg.layout import Block, Layout
from tacit.privacy.secagg.loopback import Loopback
from tacit.privacy.secagg.offer import ELIDED, REAL, Offer
from tacit.privacy.secagg.policy import MemoryJournal
from tacit.privacy.secagg.progress import Phase
from tacit.privacy.secagg.server import ServerRound

NAMES = tuple(f"m{at}" for at in range(5))
LAYOUT = Layout((Block("update", 3, 8.0, 16.0),))
PLAN, VECTOR = b"a plan", np.arange(3, dtype=np.float32)
PARTIES = Loopback.generate(NAMES, SeededRandomness(b"p" * 32), verify=VerifiedSignatures())


class Scene:
    """Five members that give `place + 1/3`, and the coordinator of one attempt after the other."""

    def __init__(self, **changes: Any) -> None:
        self.given: list[tuple[str, Instruction, Offer]] = []
        self.members = {name: MaskedMember(self.membership(name, **changes), self.contribute(name)) for name in NAMES}

    def membership(self, name: str, **changes: Any) -> Membership:
        given = Membership(
            PARTIES.members[name], PARTIES.certificates[name], PARTIES.policy(), MemoryJournal(), PARTIES.randomness,
            PARTIES.verify, now=lambda: 7.0,
        )  # fmt: skip
        return replace(given, **changes)

    def contribute(self, name: str) -> Callable[..., Any]:
        def values(instruction: Instruction, offer: Offer, draws: Callable[[str], Keystream]) -> Any:
            self.given.append((name, instruction, offer))
            return {"update": np.full(3, NAMES.index(name) + 1 / 3)}

        return values

    def offer(self, number: int = 1, attempt: int = 0, mode: str = REAL) -> Offer:
        return Offer.plan(
            run="run", round=number, attempt=attempt, model_digest=digest({"vector": VECTOR}),
            recipe_digest=sha256(PLAN), layout=LAYOUT, rotation_seed=bytes(32), cohort=5, min_cohort=2, colluders=0,
            dropout=0.0, mode=mode,
        )  # fmt: skip

    def begin(self, number: int = 1, attempt: int = 0) -> ServerRound:
        return PARTIES.server(self.offer(number, attempt))

    def ask(self, server: ServerRound, name: str, **changes: Any) -> Reply:
        """Send what is due in the coordinator's phase."""
        at, action = server.offer, MASKED_ACTIONS[server.phase.value]
        first = action == "advertise"
        instruction = Instruction(
            action, at.run, at.round, at.attempt, PLAN if first else b"",
            arrays={"vector": VECTOR} if first else {}, message=server.request(name),
        )  # fmt: skip
        return self.members[name].take(replace(instruction, **changes))

    def exchange(self, server: ServerRound, receipts: dict[str, bytes] | None = None) -> None:
        for name in NAMES:
            reply = self.ask(server, name, receipt=(receipts or {}).get(name, b""))
            server.receive(name, reply.message, reply.arrays.get("masked"))
        server.close_phase()

    def run(self, server: ServerRound, until: Phase = Phase.DONE) -> ServerRound:
        while server.phase.value < until.value:
            self.exchange(server)
        return server


def deliver(scene: Scene, name: str, receipt: bytes) -> Reply:
    return scene.members[name].take(Instruction("receipt", "run", 9, 0, b"", receipt=receipt))


def test_five_exchanges_give_the_sum_and_the_receipt_settles_it() -> None:
    scene = Scene()
    server = scene.run(scene.begin())
    np.testing.assert_allclose(server.result().blocks["update"], 10 + 5 / 3, atol=5 / 16)
    assert [name for name, _, _ in scene.given] == list(NAMES)
    for name, receipt in server.receipts().items():
        assert deliver(scene, name, receipt) == Reply()
        assert scene.members[name].receipts_checked == 1 and not scene.members[name]._owed


def test_what_is_contributed_follows_from_the_instruction_that_offered_the_round() -> None:
    scene = Scene()
    scene.run(scene.begin())
    for _, instruction, offer in scene.given:
        assert (instruction.action, instruction.plan) == ("advertise", PLAN)
        np.testing.assert_array_equal(instruction.arrays["vector"], VECTOR)
        assert offer.attempt_key == ("run", 1, 0)


@pytest.mark.parametrize("action", ["share", "mask", "sign", "unmask"])
def test_a_step_of_an_attempt_whose_offer_was_not_accepted_is_refused(action: str) -> None:
    scene = Scene()
    scene.run(scene.begin(), Phase.MASK)
    for key in [("run", 1, 1), ("run", 2, 0), ("other", 1, 0)]:
        with pytest.raises(RemoteProtocolError, match="unknown-attempt"):
            scene.members["m0"].take(Instruction(action, *key, b"", message=b"\x05"))
    assert scene.given == []


def test_an_attempt_whose_input_cannot_be_computed_is_over_and_leaves_no_secret() -> None:
    scene = Scene()

    def fail(*given: Any) -> Any:
        raise ZeroDivisionError

    scene.members["m2"].contribute = fail
    server = scene.run(scene.begin(), Phase.MASK)
    with pytest.raises(ZeroDivisionError):
        scene.ask(server, "m2")
    current = scene.members["m2"]._current
    assert current is not None and current.machine._vault is None and current.machine._input is None
    scene.members["m2"].contribute = scene.contribute("m2")
    with pytest.raises(RemoteProtocolError, match="nothing is answered any more"):
        scene.ask(server, "m2")
    assert not scene.given and not scene.members["m2"]._owed


@pytest.mark.parametrize(
    "values", [{}, {"update": np.zeros(4)}, {"update": np.full(3, np.nan)}, {"other": np.zeros(3)}]
)
def test_values_that_are_none_of_the_round_are_not_sent(values: dict[str, np.ndarray]) -> None:
    scene = Scene()
    scene.members["m2"].contribute = lambda *given: values
    server = scene.run(scene.begin(), Phase.MASK)
    with pytest.raises(LocalProtocolError):
        scene.ask(server, "m2")
    assert not scene.members["m2"]._owed


def test_an_input_is_computed_once_however_often_it_is_asked_for() -> None:
    scene = Scene()
    server = scene.run(scene.begin(), Phase.MASK)
    with pytest.raises(RemoteProtocolError):
        scene.ask(server, "m0", message=server.request("m0")[:-1])
    first, second = scene.ask(server, "m0"), scene.ask(server, "m0")
    assert first.message == second.message
    assert first.arrays["masked"].tobytes() == second.arrays["masked"].tobytes()
    assert len(scene.given) == 1


def test_an_accepted_offer_ends_the_attempt_before_it_and_a_refused_one_does_not() -> None:
    scene = Scene()
    server = scene.run(scene.begin(), Phase.MASK)
    member = scene.members["m0"]
    following = PARTIES.server(scene.offer(1, 1))
    for changes in [
        {"message": b"\x01" + bytes(99)},
        {"message": following.request("m0")[:-1] + b"\0"},
        {"plan": b"another"},
        {"arrays": {}},
        {"attempt": 2},
    ]:
        with pytest.raises(PrivacyError):
            scene.ask(following, "m0", **changes)
    for name in NAMES:
        server.receive(name, (reply := scene.ask(server, name)).message, reply.arrays["masked"])
    server.close_phase()
    later = PARTIES.server(scene.offer(2))
    before = member._current
    assert before is not None
    scene.ask(later, "m0")
    assert before.machine._vault is None and not before.machine._replies
    with pytest.raises(RemoteProtocolError, match="unknown-attempt"):
        scene.ask(server, "m0")


def test_a_member_whose_input_left_takes_part_in_no_other_attempt_at_the_round() -> None:
    scene = Scene()
    server = scene.run(scene.begin(), Phase.MASK)
    scene.ask(server, "m0")
    again, following = scene.begin(1, 1), scene.begin(2, 0)
    with pytest.raises(RemoteProtocolError, match="round-over"):
        scene.ask(again, "m0")
    assert scene.ask(again, "m1").message and scene.ask(following, "m0").message


# Receipts


def test_a_receipt_may_come_again_and_is_counted_once() -> None:
    scene = Scene()
    receipt = scene.run(scene.begin()).receipts()["m0"]
    for _ in range(3):
        assert deliver(scene, "m0", receipt) == Reply()
    assert scene.members["m0"].receipts_checked == 1


def test_another_receipt_for_the_same_attempt_is_an_alarm() -> None:
    from tacit.privacy.secagg.receipt import Receipt

    scene = Scene()
    receipt = scene.run(scene.begin()).receipts()["m0"]
    other = replace(Receipt.decode(receipt), sum_digest=bytes(32)).signed(PARTIES.coordinator).encode()
    deliver(scene, "m0", receipt)
    with pytest.raises(RemoteProtocolError, match="other-receipt"):
        deliver(scene, "m0", other)


def test_a_step_that_comes_with_a_wrong_receipt_is_not_taken() -> None:
    scene = Scene()
    receipts = scene.run(scene.begin()).receipts()
    with pytest.raises(RemoteProtocolError, match="bad-receipt"):
        scene.ask(scene.begin(2), "m0", receipt=receipts["m1"])
    assert scene.members["m0"]._current.machine.offer.round == 1  # type: ignore[union-attr]
    assert scene.ask(scene.begin(2), "m0", receipt=receipts["m0"]).message


def test_a_receipt_is_found_by_its_round_whatever_came_in_between() -> None:
    scene = Scene()
    rounds = [scene.run(scene.begin(number)).receipts() for number in range(1, 4)]
    for receipts in (rounds[1], rounds[0], rounds[2]):
        deliver(scene, "m3", receipts["m3"])
    assert scene.members["m3"].receipts_checked == 3


def test_the_newest_of_the_receipts_that_never_come_are_waited_for() -> None:
    scene = Scene()
    rounds = [scene.run(scene.begin(number)).receipts() for number in range(1, MOST_OWED + 3)]
    member = scene.members["m0"]
    assert len(member._owed) == MOST_OWED
    assert deliver(scene, "m0", rounds[1]["m0"]) == Reply() and member.receipts_checked == 0
    for receipts in rounds[2:]:
        deliver(scene, "m0", receipts["m0"])
    assert not member._owed and len(member._accepted) == MOST_OWED


# Without masks


def unmasked(offer: Offer) -> Instruction:
    message = offer.signed(PARTIES.coordinator).encode()
    return Instruction(
        "contribute", offer.run, offer.round, offer.attempt, PLAN, arrays={"vector": VECTOR}, message=message
    )


def test_a_round_without_masks_is_answered_by_nobody_who_was_not_made_for_it() -> None:
    scene = Scene()
    for offer in (scene.offer(mode=ELIDED), scene.offer(mode=REAL)):
        with pytest.raises(RemoteProtocolError, match="not-masked"):
            scene.members["m0"].take(unmasked(offer))
    assert not scene.given


def test_a_simulated_member_gives_an_offer_of_masks_no_bare_integers() -> None:
    scene = Scene(accept_elided=True)
    with pytest.raises(RemoteProtocolError, match="not-masked"):
        scene.members["m0"].take(unmasked(scene.offer(mode=REAL)))
    with pytest.raises(RemoteProtocolError, match="other-model"):
        scene.members["m0"].take(replace(unmasked(scene.offer(mode=ELIDED)), arrays={}))
    assert not scene.given


@pytest.mark.parametrize("public", [None, SeededRandomness(b"r" * 32)])
def test_the_integers_are_the_same_with_and_without_masks(public: SeededRandomness | None) -> None:
    scene = Scene(accept_elided=True, public_rounding=public)
    server = scene.run(scene.begin())
    integers = [scene.members[name].take(unmasked(scene.offer(mode=ELIDED))).arrays["integers"] for name in NAMES]
    np.testing.assert_array_equal(server.result().integers, np.sum(integers, axis=0))


def test_rounding_from_a_public_source_does_not_depend_on_the_secret_one() -> None:
    public = SeededRandomness(b"r" * 32)
    one = Scene(accept_elided=True, public_rounding=public)
    other = Scene(accept_elided=True, public_rounding=public, randomness=SeededRandomness(b"o" * 32))
    offer = one.offer(mode=ELIDED)
    first, second = (scene.members["m1"].take(unmasked(offer)).arrays["integers"] for scene in (one, other))
    np.testing.assert_array_equal(first, second)
    words = Keystream(public.key("rounding", 1, 0, "m1"))
    np.testing.assert_array_equal(first, encode(LAYOUT, {"update": np.full(3, 4 / 3)}, bytes(32), words))


def test_noised_integers_pass_through_as_they_are() -> None:
    scene = Scene(accept_elided=True)
    scene.members["m0"].contribute = lambda *given: np.array([5, -6, 7], np.int64)
    reply = scene.members["m0"].take(unmasked(scene.offer(mode=ELIDED)))
    assert reply.arrays["integers"].tolist() == [5, -6, 7] and reply.arrays["integers"].dtype == np.int32


def test_no_repr_shows_a_key_or_a_value() -> None:
    scene = Scene()
    scene.run(scene.begin(), Phase.SIGN)
    member = scene.members["m0"]
    assert "secret" not in repr(member.membership).lower()
    for thing in (member.membership, member._current and member._current.machine):
        text = repr(thing)
        assert "Keystream" not in text and "array" not in text and "0.33" not in text
