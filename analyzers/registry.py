"""All rules, and the analyzers that speak for them."""

from __future__ import annotations

from typing import Final

from pgtattle.analyzers.analyzer import Analyzer
from pgtattle.analyzers.cache_churn import CacheChurn
from pgtattle.analyzers.cacheable import Cacheable
from pgtattle.analyzers.call_loops import CallLoops
from pgtattle.analyzers.chatty_unit import ChattyUnit
from pgtattle.analyzers.fan_out import FanOut
from pgtattle.analyzers.injection import Injection
from pgtattle.analyzers.keys import Keys
from pgtattle.analyzers.list_growth import ListGrowth
from pgtattle.analyzers.missing_index import MissingIndex
from pgtattle.analyzers.n_plus_one import NPlusOne
from pgtattle.analyzers.parameters import Unparameterized
from pgtattle.analyzers.repeated_read import RepeatedRead
from pgtattle.analyzers.repetition import Repetitions
from pgtattle.analyzers.row_by_row_write import RowByRowWrite
from pgtattle.analyzers.samples import Samples
from pgtattle.analyzers.slow_query import SlowQuery
from pgtattle.analyzers.sql.facts_cache import FactsCache
from pgtattle.proxy.settings import RuleSettings

RULES: Final = {
    "n-plus-one": "one query of a unit of work drove many others, each with another value",
    "repeated-read": "the same query with the same values, again and again in one unit of work or across many",
    "row-by-row-write": "INSERT, UPDATE, DELETE or MERGE in a loop that one statement could do",
    "chatty-unit": "a unit of work over its budget of queries or of time in the database",
    "missing-index": "a filter, join or sort that an index would serve",
    "unparameterized": "the application pastes values into SQL text",
    "injection-signal": "a literal changed the structure of a known statement",
    "statement-cache-churn": "many prepared texts that differ only by comments, lists or literals",
    "slow-query": "executions over the latency target",
}
"""Each rule and what it says, in one line."""


def analyzers(
    settings: RuleSettings, facts: FactsCache | None = None, samples: Samples | None = None
) -> list[Analyzer]:
    """The analyzers of all rules that are not disabled, sharing one cache of facts and the samples of results."""
    facts = facts or FactsCache()
    samples = samples or Samples()
    keys = Keys()
    repetitions = Repetitions(settings, facts, samples, keys)
    loops = NPlusOne(repetitions, keys)
    every: list[Analyzer] = [
        keys,
        loops,
        FanOut(settings, loops, repetitions, facts, samples),
        RepeatedRead(repetitions),
        Cacheable(facts, samples),
        RowByRowWrite(settings, facts),
        CallLoops(settings),
        ChattyUnit(settings, repetitions),
        MissingIndex(settings, facts),
        Unparameterized(facts),
        ListGrowth(),
        Injection(),
        CacheChurn(),
        SlowQuery(settings, facts),
    ]
    disabled = set(settings.disable)
    return [analyzer for analyzer in every if not analyzer.rules or not set(analyzer.rules) <= disabled]
