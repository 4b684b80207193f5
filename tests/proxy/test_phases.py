"""The table of phases, and relays that live by it: whatever happens in whatever order, each ends once, and in order."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pgtattle.proxy.dismissals import Dismissals
from pgtattle.proxy.errors import UpstreamUnreachable
from pgtattle.proxy.opening import Doorman, House, Refusal
from pgtattle.proxy.phases import TABLE, Event, Phase, Step
from pgtattle.proxy.relay import ClientLeg, Relay
from pgtattle.proxy.settings import Address, Upstream
from pgtattle.proxy.tap import Line, Tap
from pgtattle.proxy.tasks import Tasks
from pgtattle.proxy.upstream import Endpoint, Leg
from tests.proxy.simulation import SimulatedLoop, SimulatedTransport, frames

STARTUP = b"\0\0\0\x10\0\3\0\0user\0a\0\0"
CANCEL = struct.pack("!iIII", 16, 80877102, 7, 9)
DRAIN_SECONDS = 6.0
ADDRESS = Address("192.0.2.9", 5432)


def frame(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!I", 4 + len(body)) + body


LOGIN = frame(b"R", b"\0\0\0\0") + frame(b"Z", b"I")
QUERIES = {"select": b"I", "begin": b"T", "commit": b"I"}


class Session:
    """A client and a server with a relay between them, and what a bystander knows of their conversation."""

    def __init__(self, world: World, number: int, *, client_tls: bool, server_tls: bool) -> None:
        self.world = world
        self.ends: list[str] = []
        self.client = SimulatedTransport(world.loop, tls=client_tls)
        self.server = SimulatedTransport(world.loop, tls=server_tls)
        self.connecting: asyncio.Future[None] | None = None
        self.cancelling: asyncio.Future[None] | None = None
        self.relay = Relay(world.loop, number, Doorman(world.house(self)), self._ended)
        self.client_ended = self.server_ended = self.began = False
        self._leg = ClientLeg(self.relay)
        self._rest = self._answer = b""
        self._answered = 0
        self.client.set_protocol(self._leg)
        self._leg.connection_made(self.client)
        world.relays.add(self.relay)

    def _ended(self, relay: Relay, reason: str) -> None:
        self.ends.append(reason)
        self.world.relays.discard(relay)
        self.world.dismissals.ended()

    async def connect(self, upstream: Upstream, factory: Callable[[], asyncio.Protocol], *, raw: bool) -> Leg:
        self.connecting = self.world.loop.create_future()
        await self.connecting
        self.server.set_protocol(factory())
        return Leg(self.server, Endpoint(ADDRESS, ("192.0.2.9", 5432)))

    async def cancel(self, *_: object) -> None:
        self.cancelling = self.world.loop.create_future()
        await self.cancelling

    # -- what a bystander knows --------------------------------------------------------------------------------------

    @property
    def requests(self) -> list[bytes]:
        """Requests that have reached the server whole."""
        found, _ = frames(self.server.sent[len(STARTUP) :])
        return [STARTUP] + [body for kind, body in found if kind == b"Q"] if self.server.sent else []

    @property
    def running(self) -> bool:
        """True when an end now would cut an exchange, a transaction or a message."""
        return self.relay.phase in (Phase.OPEN, Phase.CLIENT_ENDED) and self.unfinished

    @property
    def unfinished(self) -> bool:
        """True while an exchange, a transaction or a message has begun and not ended."""
        if self._answered == 0:
            return False
        open_exchange = len(self.requests) > self._answered or bool(self._answer)
        done = self.requests[1 : self._answered]
        in_transaction = bool(done) and QUERIES[done[-1][:-1].decode()] == b"T"
        return open_exchange or bool(self._rest) or (in_transaction and not self.client_ended)

    # -- what happens ------------------------------------------------------------------------------------------------

    def says(self, data: bytes) -> None:
        if not self.client_ended:
            self.client.peer_sends(data)

    def client_says(self, what: str) -> None:
        """A message, or the rest of one that was sent in part."""
        if not self.began:
            self.began = True
            self.says(CANCEL if what == "cancel" else STARTUP)
        elif self._rest:
            self.says(self._rest)
            self._rest = b""
        elif what in QUERIES and self._answered:
            self.says(frame(b"Q", what.encode() + b"\0"))

    def client_says_half(self) -> None:
        if self._answered and not self._rest and not self.client_ended:
            message = frame(b"Q", b"select\0")
            self.says(message[:7])
            self._rest = message[7:]

    def server_answers(self, *, half: bool) -> None:
        if self.server_ended or not self.server.sent or self.server.lost:
            return
        if not self._answer and len(self.requests) > self._answered:
            asked = self.requests[self._answered]
            status = QUERIES[asked[:-1].decode()] if asked != STARTUP else b""
            tag = frame(b"C", b"SELECT 1\0")
            self._answer = LOGIN if asked == STARTUP else frame(b"D", b"\0\1\0\0\0\1x") + tag + frame(b"Z", status)
        if self._answer:
            sent, self._answer = (self._answer[:7], self._answer[7:]) if half else (self._answer, b"")
            if not self._answer:
                self._answered += 1
            self.server.peer_sends(sent)

    def take(self, event: str) -> None:
        match event:
            case "startup" | "cancel" | "select" | "begin" | "commit":
                self.client_says(event)
            case "half a message":
                self.client_says_half()
            case "answer" | "half an answer":
                self.server_answers(half=event != "answer")
            case "client stops or reads":
                self.client.peer_turns()
            case "client eof":
                self.client_ended = True
                self.client.peer_ends()
            case "client reset":
                self.client_ended = True
                self.client.peer_resets()
            case "server eof" if self.server.get_protocol():
                self.server_ended = True
                self.server.peer_ends()
            case "server reset" if self.server.get_protocol():
                self.server_ended = True
                self.server.peer_resets()
            case "connected" | "no server":
                for future in (self.connecting, self.cancelling):
                    if future is not None and not future.done() and event == "connected":
                        future.set_result(None)
                    elif future is not None and not future.done():
                        future.set_exception(UpstreamUnreachable("no answer"))


SESSION_EVENTS = (
    "startup", "cancel", "select", "begin", "commit", "half a message", "answer", "half an answer",
    "client stops or reads", "client eof", "client reset", "server eof", "server reset", "connected", "no server",
)  # fmt: skip
WORLD_EVENTS = ("SIGTERM", "second SIGTERM", "a moment", "a while")


class World:
    """Sessions of one proxy."""

    def __init__(self, loop: SimulatedLoop) -> None:
        self.loop = loop
        self.relays: set[Relay] = set()
        self.tasks = Tasks(loop)
        self.tasks.watch_callbacks()
        self.dismissals = Dismissals(loop, self.relays, self.tasks)
        self.tap = Tap(loop)
        self.drain: asyncio.Task[int] | None = None
        self.over = False
        self.deadline = 0.0

    def house(self, session: Session) -> House:
        return House(
            upstream=Upstream(addresses=(ADDRESS,), dsn=""),
            tasks=self.tasks,
            line=lambda relay: Line(self.tap, relay.number, relay.peer),
            admit=self._admit,
            failed=lambda: None,
            connect=session.connect,
            cancel=session.cancel,
        )

    def _admit(self, relay: Relay) -> Refusal | None:
        if self.drain is not None:
            return Refusal("57P03", "going")
        relay.admitted = True
        return None

    @property
    def draining(self) -> bool:
        return self.drain is not None and not self.over and self.loop.time() < self.deadline

    async def take(self, event: str) -> None:
        match event:
            case "SIGTERM" if self.drain is None:
                self.deadline = self.loop.time() + DRAIN_SECONDS
                self.drain = self.loop.create_task(self.dismissals.drain(DRAIN_SECONDS))
            case "second SIGTERM" if self.drain is not None:
                self.abort()
            case "a moment":
                await asyncio.sleep(0.2)
            case "a while":
                await asyncio.sleep(2.0)

    def abort(self) -> None:
        self.over = True
        for relay in list(self.relays):
            relay.abort("stop")


async def turns() -> None:
    for _ in range(6):
        await asyncio.sleep(0)
    await asyncio.sleep(0.05)


def simulate(test: Callable[[SimulatedLoop], Coroutine[Any, Any, None]]) -> None:
    loop = SimulatedLoop()
    try:
        loop.run_until_complete(test(loop))
    finally:
        loop.close()


def check(session: Session, uncut: bool) -> None:
    """Nothing is written where it may not be, and what the client reads are whole messages."""
    assert session.client.misuses == session.server.misuses == []
    assert len(session.ends) <= 1
    if uncut:
        assert not session.client.is_closing(), "a running exchange was cut"
        assert not session.server.is_closing(), "a running exchange was cut"
    found, rest = frames(session.client.sent)
    fatal = [body for kind, body in found if kind == b"E"]
    assert len(fatal) <= 1
    if fatal:
        assert (found[-1][0], rest) == (b"E", b""), "something follows the end, or it stands in another message"
    if session.server.sent:
        messages, part = frames(session.server.sent[len(STARTUP) :])
        assert b"X" not in [kind for kind, _ in messages[:-1]]
        assert not part.endswith(b"X\0\0\0\4"), "Terminate stands in another message"


EVENTS = st.tuples(st.integers(0, 2), st.sampled_from(SESSION_EVENTS + WORLD_EVENTS))
PLAIN = [(False, False)] * 3
OPENED = [(number, event) for number in range(3) for event in ("startup", "connected", "answer")]


@settings(max_examples=200, deadline=None)
@given(
    st.booleans(),
    st.lists(st.tuples(st.booleans(), st.booleans()), min_size=3, max_size=3),
    st.lists(EVENTS, max_size=40),
)
@example(True, PLAIN, [(0, "client eof"), (1, "select"), (0, "SIGTERM"), (0, "a moment"), (1, "answer")])
@example(True, PLAIN, [(0, "half a message"), (1, "half an answer"), (0, "SIGTERM"), (0, "a while")])
@example(True, PLAIN, [(0, "begin"), (0, "answer"), (0, "SIGTERM"), (0, "a moment"), (0, "commit")])
@example(True, [(True, True)] * 3, [(0, "client stops or reads"), (1, "select"), (1, "client eof"), (0, "SIGTERM")])
def test_whatever_happens_each_connection_ends_once_and_in_order(
    opened: bool, legs: list[tuple[bool, bool]], events: list[tuple[int, str]]
) -> None:
    async def test(loop: SimulatedLoop) -> None:
        world = World(loop)
        sessions = [
            Session(world, number + 1, client_tls=one, server_tls=two) for number, (one, two) in enumerate(legs)
        ]
        for number, event in (OPENED if opened else []) + events:
            session = sessions[number]
            before = [one.running and not one.server_ended and not one.client.peer_left for one in sessions]
            if event in WORLD_EVENTS:
                await world.take(event)
            else:
                session.take(event)
            await turns()
            for one, was_running in zip(sessions, before, strict=True):
                gone = one.server_ended or one.client.peer_left
                check(one, uncut=world.draining and was_running and one.unfinished and not gone)
        await world.take("SIGTERM")
        assert world.drain is not None
        await world.drain
        world.abort()
        await turns()
        await world.tasks.stop()
        await turns()
        for session in sessions:
            check(session, uncut=False)
            assert len(session.ends) == 1
            assert session.relay.phase is Phase.ENDED
        assert world.tasks.failures == 0
        assert not world.tap.lines

    simulate(test)


def test_every_phase_says_what_each_event_does() -> None:
    assert set(TABLE) == {(phase, event) for phase in Phase for event in Event}
    assert all(TABLE[phase, Event.ABORT] is Step.ABORT for phase in Phase if phase is not Phase.ENDED)


def test_an_event_that_cannot_be_ends_the_connection_and_says_so() -> None:
    async def test(loop: SimulatedLoop) -> None:
        session = Session(World(loop), 1, client_tls=False, server_tls=False)
        session.relay.server_lost()
        await turns()
        assert session.ends == ["error"]
        assert session.relay.error == "server_lost in phase opening"

    simulate(test)


@pytest.mark.parametrize("ended", [False, True])
def test_a_half_closed_session_is_left_in_peace_by_a_drain(ended: bool) -> None:
    """Its server has the end already; what still runs in it ends."""

    async def test(loop: SimulatedLoop) -> None:
        world = World(loop)
        session = Session(world, 1, client_tls=False, server_tls=False)
        for event in ("startup", "connected", "answer", "select", "client eof"):
            session.take(event)
            await turns()
        await world.take("SIGTERM")
        await turns()
        assert session.relay.phase is Phase.CLIENT_ENDED
        assert session.server.eof_sent
        session.take("answer" if ended else "half an answer")
        await turns()
        assert bool(session.ends) is ended
        world.abort()
        assert world.drain is not None
        await world.drain

    simulate(test)


def test_a_client_whose_server_is_still_being_connected_is_told_of_a_drain() -> None:
    async def test(loop: SimulatedLoop) -> None:
        world = World(loop)
        waiting, silent = (Session(world, number, client_tls=False, server_tls=False) for number in (1, 2))
        waiting.take("startup")
        await turns()
        assert waiting.relay.phase is Phase.CONNECTING
        await world.take("SIGTERM")
        await turns()
        assert waiting.ends == ["drain"]
        assert b"C57P01\0" in waiting.client.sent
        assert waiting.connecting is not None
        assert waiting.connecting.cancelled()
        assert world.drain is not None
        assert await world.drain == 0
        silent.take("startup")
        await turns()
        assert silent.ends == ["refused"]
        assert b"C57P03\0" in silent.client.sent

    simulate(test)


def test_a_client_of_a_login_that_does_not_go_on_is_told_of_a_drain() -> None:
    async def test(loop: SimulatedLoop) -> None:
        world = World(loop)
        session = Session(world, 1, client_tls=False, server_tls=False)
        for event in ("startup", "connected"):
            session.take(event)
            await turns()
        await world.take("SIGTERM")
        await turns()
        assert session.ends == ["drain"]
        assert b"C57P01\0" in session.client.sent
        assert session.server.sent == STARTUP

    simulate(test)


def test_a_cancel_request_goes_through_in_a_drain() -> None:
    async def test(loop: SimulatedLoop) -> None:
        world = World(loop)
        working, other = (Session(world, number, client_tls=False, server_tls=False) for number in (1, 2))
        for event in ("startup", "connected", "answer", "select"):
            working.take(event)
            await turns()
        await world.take("SIGTERM")
        other.take("cancel")
        await turns()
        assert other.relay.phase is Phase.CANCELLING
        working.take("answer")
        await turns()
        assert working.ends == ["drain"]
        assert world.drain is not None
        assert not world.drain.done(), "the cancel request is still under way"
        other.take("connected")
        await turns()
        assert other.ends == ["cancel"]
        assert await world.drain == 0

    simulate(test)


def test_a_tls_client_that_does_not_read_does_not_hold_a_drain() -> None:
    async def test(loop: SimulatedLoop) -> None:
        world = World(loop)
        session = Session(world, 1, client_tls=True, server_tls=False)
        for event in ("startup", "connected", "answer"):
            session.take(event)
            await turns()
        session.client.answers = False
        before = loop.time()
        await world.take("SIGTERM")
        assert world.drain is not None
        assert await world.drain == 0
        assert session.ends == ["drain"]
        assert b"C57P01\0" in session.client.sent
        assert loop.time() - before < 1

    simulate(test)


class Broken(Relay):
    """A session in which something is wrong that nobody thought of."""

    __slots__ = ()

    @property
    def idle(self) -> bool:
        raise RuntimeError("broken")


@pytest.mark.parametrize("idle_timeout", [False, True])
def test_a_session_that_fails_is_counted_and_the_others_are_ended_all_the_same(idle_timeout: bool) -> None:
    async def test(loop: SimulatedLoop) -> None:
        world = World(loop)
        sessions = [Session(world, number, client_tls=False, server_tls=False) for number in (1, 2, 3)]
        for event in ("startup", "connected", "answer"):
            for session in sessions:
                session.take(event)
            await turns()
        sessions[1].relay.__class__ = Broken
        if idle_timeout:
            world.tasks.start("idle timeout", world.dismissals.end_idle(1.0))
            await asyncio.sleep(5.0)
        else:
            assert await world.dismissals.drain(1.0) == 1
        await turns()
        assert [bool(session.ends) for session in sessions] == [True, False, True]
        assert world.tasks.failures > 0
        await world.tasks.stop()

    simulate(test)
