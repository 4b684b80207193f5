"""The phases of a client's connection, and what each event does in each of them: one table.

Enters: a phase and an event. Leaves: the step to take and the phase after it. `relay` takes the steps. Data is no
event: from OPEN on it goes through pipes from leg to leg, and a step that ends a direction takes its pipe away.
"""

from __future__ import annotations

from enum import Enum
from typing import Final


class Phase(Enum):
    """Where a connection is. A leg that was lost is no phase: CLOSING lasts until both are."""

    OPENING = "opening"
    """The client says what it wants, and may be in a TLS handshake. There is no server."""
    CANCELLING = "cancelling"
    """Its CancelRequest is on the way to the server."""
    CONNECTING = "connecting"
    """Its session waits for a server."""
    OPEN = "open"
    """Bytes pass both ways, from the login on."""
    CLIENT_ENDED = "client ended"
    """The client sends nothing more, and the server knows; answers still pass."""
    SERVER_ENDED = "server ended"
    """The server is gone; the client takes what is left for it, and what it sends has nowhere to go."""
    CLOSING = "closing"
    """Nothing is written any more; what was written is flushed."""
    ENDED = "ended"
    """Both legs are gone, and the end was reported."""


class Event(Enum):
    """What happens to a connection."""

    SESSION = "session"
    """The client sent a StartupMessage that is taken."""
    CANCEL = "cancel"
    """The client sent a CancelRequest."""
    CONNECTED = "connected"
    CLIENT_EOF = "client_eof"
    CLIENT_LOST = "client_lost"
    CLIENT_RESET = "client_reset"
    """The client's socket ended by an error."""
    SERVER_EOF = "server_eof"
    SERVER_LOST = "server_lost"
    DISMISS = "dismiss"
    """The proxy wants to end the session, and nothing is running in it: a drain, the idle timeout."""
    REFUSE = "refuse"
    """No server is to be had for this client."""
    CLOSE = "close"
    """What the connection was for is done."""
    ABORT = "abort"
    """A timer that ran out, a violation of the protocol, the end of a drain, a second signal."""


class Step(Enum):
    """What to do at an event."""

    STAY = "stay"
    NEVER = "never"
    """This event cannot come in this phase: a mistake of ours, which ends the connection."""
    CONNECT = "connect"
    CANCEL = "cancel"
    OPEN = "open"
    DROP = "drop"
    """Abort the server's connection, which came too late."""
    PASS_ON = "pass_on"
    """Pass the client's end on to the server."""
    LAST = "last"
    """Give the client what is left, then the end."""
    CUT = "cut"
    """Abort the server's connection: its client has vanished."""
    REFUSE = "refuse"
    """Tell the client why with a FATAL error, and close."""
    TERMINATE = "terminate"
    """Tell the client why with a FATAL error and the server with Terminate, and close."""
    CLOSE = "close"
    ABORT = "abort"


AFTER: Final = {
    Step.CONNECT: Phase.CONNECTING,
    Step.CANCEL: Phase.CANCELLING,
    Step.OPEN: Phase.OPEN,
    Step.PASS_ON: Phase.CLIENT_ENDED,
    Step.LAST: Phase.SERVER_ENDED,
    **dict.fromkeys((Step.NEVER, Step.CUT, Step.REFUSE, Step.TERMINATE, Step.CLOSE, Step.ABORT), Phase.CLOSING),
}
"""The phase after a step; of the others the phase stays. ENDED follows from CLOSING when both legs are gone."""

_GRID: Final = """
              OPENING  CANCELLING  CONNECTING  OPEN       CLIENT_ENDED  SERVER_ENDED  CLOSING  ENDED
SESSION       connect  never       never       never      never         never         never    never
CANCEL        cancel   never       never       never      never         never         never    never
CONNECTED     never    never       open        never      never         never         drop     drop
CLIENT_EOF    close    stay        close       pass_on    stay          close         stay     stay
CLIENT_LOST   close    stay        close       close      close         close         stay     stay
CLIENT_RESET  close    stay        close       cut        close         close         stay     stay
SERVER_EOF    never    never       stay        last       close         stay          stay     stay
SERVER_LOST   never    never       stay        last       close         stay          stay     stay
DISMISS       stay     stay        refuse      terminate  close         close         stay     stay
REFUSE        refuse   never       refuse      never      never         never         stay     stay
CLOSE         close    close       close       close      close         close         stay     stay
ABORT         abort    abort       abort       abort      abort         abort         abort    stay
"""


def _table(grid: str) -> dict[tuple[Phase, Event], Step]:
    head, *rows = (line.split() for line in grid.strip().splitlines())
    return {
        (Phase[phase], Event[row[0]]): Step(step) for row in rows for phase, step in zip(head, row[1:], strict=True)
    }


TABLE: Final = _table(_GRID)
"""Why some cells are as they are:

A drain lets OPENING be, since a CancelRequest may still come, and a StartupMessage is refused. A client that vanishes
while its cancel is under way wanted it all the same. Whether a server that ended while it was being connected is one is
for CONNECTED to see. A session whose client has sent its end is not told of a drain: it is leaving.
"""
