"""What pgtattle costs, measured on this machine beside a direct connection, PgBouncer and, where it is given, sql-tap.

`python -m benchmarks` measures everything in one run and writes README.md. It imports pgtattle and is not part of it.
"""
