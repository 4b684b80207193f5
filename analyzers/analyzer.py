"""The seam between the profiler and the rules.

Enters: executions and units of work, in order. Leaves: findings, and questions that only a database can answer.
An analyzer does no I/O and has no clock; the profiler asks the question and brings the answer back.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from mypy_extensions import mypyc_attr

from pgtattle.analyzers.finding import Finding
from pgtattle.analyzers.questions import Answer, Question
from pgtattle.proxy.events import Unit
from pgtattle.proxy.execution import Execution

Outcome = Finding | Question


@mypyc_attr(allow_interpreted_subclasses=True)
class Analyzer:
    """A rule; each method may be left as it is. Called from one thread, in order."""

    rules: ClassVar[tuple[str, ...]] = ()

    @property
    def waits(self) -> bool:
        """True while something is to be said when time passes, though nothing more comes."""
        return False

    def execution(self, execution: Execution) -> Iterable[Outcome]:
        """See one execution, in the order of their ends."""
        return ()

    def unit(self, unit: Unit) -> Iterable[Outcome]:
        """See a complete unit of work."""
        return ()

    def preview(self, unit: Unit) -> Iterable[Outcome]:
        """See a unit that is silent but not over, as it stands; `unit` sees it again when it is complete.

        What is said here holds until then.
        """
        return ()

    def tick(self, now_ns: int) -> Iterable[Outcome]:
        """Time has passed: all traffic up to `now_ns` was seen, and the units that fell silent since."""
        return ()

    def answer(self, answer: Answer) -> Iterable[Outcome]:
        """See the answer to an earlier question, of this analyzer or of another."""
        return ()
