\set aid random(1, 100000)
\set delta random(-5000, 5000)
BEGIN \; UPDATE pgbench_accounts SET abalance = abalance + :delta WHERE aid = :aid \; SELECT abalance FROM pgbench_accounts WHERE aid = :aid \gset
INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) VALUES (1, 1, :aid, :delta, CURRENT_TIMESTAMP) \; COMMIT;
