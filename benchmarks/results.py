"""What a run of the benchmarks measured: plain records, kept as JSON so that the page can be drawn again."""

from __future__ import annotations

from msgspec import Struct


class Machine(Struct, frozen=True, kw_only=True):
    """Where it was measured, and the versions of everything that took part."""

    processor: str
    cores: int
    memory_gib: float
    kernel: str
    python: str
    programs: dict[str, str]


class Run(Struct, frozen=True, kw_only=True):
    """One pgbench run through one target. `cpu_us` is a query's, by process, the relay first."""

    target: str
    mode: str
    clients: int
    transactions: int
    tps: float
    cpu_us: dict[str, float]
    accounts: Accounts | None = None


class Latency(Struct, frozen=True, kw_only=True):
    """One client in a closed loop through one target, in one round with the others."""

    target: str
    mode: str
    queries: int
    median_us: float


class Accounts(Struct, frozen=True, kw_only=True):
    """Executions of one run: what pgbench sent, and where pgtattle says each of them is."""

    sent: int
    seen: int
    shed: int
    lost: int

    @property
    def exact(self) -> bool:
        return self.seen + self.shed + self.lost == self.sent


class Transfer(Struct, frozen=True, kw_only=True):
    """One large result or COPY through one target."""

    target: str
    kind: str
    milliseconds: float


class Memory(Struct, frozen=True, kw_only=True):
    """Resident memory of a relay over idle: at most while a client does not read, and for each idle connection."""

    target: str
    stalled_mib: float
    idle_kib: float
    connections: int


class Rate(Struct, frozen=True, kw_only=True):
    """Executions of one kind of traffic through the profiler's pipeline, and the CPU time they took when warm."""

    traffic: str
    executions: int
    seconds: float
    grown_mib: float


class Results(Struct, kw_only=True):
    """A whole run; a part that was not measured is empty. Runs and transfers are in the order of their rounds."""

    machine: Machine
    rounds: int
    seconds: int
    runs: list[Run] = []
    latencies: list[Latency] = []
    transfers: list[Transfer] = []
    memory: list[Memory] = []
    rates: list[Rate] = []
