"""Which functions a statement calls, as far as its effects are concerned: may it do more, or depend on more, than its
tables say?

Enters: normal forms, in which keywords are in capitals and names are not. Leaves: whether the same query may answer
differently with nothing written, and whether it may write. Lexical: nobody asks the catalogue, so a function that is
not known to be harmless may do anything.
Source: PostgreSQL, "Functions and Operators", "Function Volatility Categories".
"""

from __future__ import annotations

import re
from typing import Final

_CALL: Final = re.compile(r"(?<![\w$.\"])((?:[\w$]+\.|\"[^\"]+\"\.)*(?:[\w$]+|\"[^\"]+\"))\s*\(")
_DEFINED: Final = re.compile(r"\b(?:AS|WITH|RECURSIVE|INTO)\s*$")
"""Before a name with a list of columns."""
_VOLATILE: Final = re.compile(
    r"\b(?:nextval|currval|lastval|setval|random\w*|gen_random_\w+|uuid\w*|clock_timestamp|statement_timestamp|timeofday"
    r"|txid_\w+|pg_\w+)\s*\(|\btablesample\b",
    re.I,
)
_MODIFIES: Final = re.compile(r"\b(?:INTO|DELETE)\b|(?<!FOR )(?<!KEY )\bUPDATE\b")
_WAITS: Final = re.compile(r"\bpg_(?:try_)?advisory_\w+\s*\(|\bpg_sleep\w*\s*\(")

_HARMLESS: Final = frozenset(
    """abs acos age any_value ascii asin atan atan2 avg bit_and bit_length bit_or bool_and bool_or btrim cardinality
    cast cbrt ceil ceiling char char_length character character_length chr coalesce col_description collation concat
    concat_ws corr cos count covar_pop covar_samp cume_dist current_database current_schema current_schemas
    current_setting decimal decode degrees dense_rank digest div encode every exp extract filter first_value float
    floor format format_type gcd generate_series generate_subscripts greatest grouping hashtext host initcap interval
    isfinite justify_days justify_hours justify_interval lag last_value lead least left length levenshtein ln log
    log10 lower lpad ltrim make_date make_interval make_time make_timestamp make_timestamptz masklen max md5 min mod
    mode netmask network normalize now nth_value ntile nullif num_nonnulls num_nulls numeric obj_description
    octet_length over overlay percent_rank pi plainto_tsquery phraseto_tsquery position power quote_ident
    quote_literal quote_nullable radians rank repeat replace reverse right round row row_number row_to_json rpad rtrim
    scale set_config setseed setweight sha224 sha256 sha384 sha512 shobj_description sign similarity sin split_part
    sqrt starts_with stddev stddev_pop stddev_samp strip strpos strict_word_similarity substr substring sum tan text
    time timestamp timestamptz timetz timezone to_regclass translate trim trunc tsquery_phrase unaccent unnest upper
    var_pop var_samp varchar variance varying version websearch_to_tsquery width_bucket within word_similarity
    lower_inf upper_inf isempty bit bpchar json xml inet_client_addr nextval currval lastval random clock_timestamp
    statement_timestamp transaction_timestamp gen_random_uuid timeofday""".split()
)
_FAMILIES: Final = (
    "json_", "jsonb_", "array_", "string_", "to_", "date_", "regexp_", "ts_", "tsvector_", "range_", "multirange_",
    "percentile_", "regr_", "xml", "has_", "st_", "pg_", "uuid", "int", "float", "bit_", "txid_",
)  # fmt: skip
"""What the names of harmless functions begin with."""


def answers_vary(sql: str) -> bool:
    """True where the same query may answer differently, or write, though nobody else wrote to its tables."""
    return _VOLATILE.search(sql) is not None or modifies(sql) or calls_unknown(sql)


def modifies(sql: str) -> bool:
    """True where a query has a part that writes: a CTE, or INTO."""
    return _MODIFIES.search(sql) is not None


def calls_unknown(sql: str) -> bool:
    """True where a query calls a function that may do anything."""
    if "(" not in sql:
        return False
    for call in _CALL.finditer(sql):
        name = call[1]
        if name.isupper() or _DEFINED.search(sql, max(0, call.start() - 12), call.start()):
            continue
        schema, _, plain = name.replace('"', "").lower().rpartition(".")
        if schema not in ("", "pg_catalog") or not (plain in _HARMLESS or plain.startswith(_FAMILIES)):
            return True
    return False


def waits(sql: str) -> bool:
    """True where a query takes a lock of no table, or sleeps: what is read after it may have changed meanwhile."""
    return _WAITS.search(sql) is not None
