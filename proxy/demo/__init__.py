"""`pgtattle demo`: a throw-away PostgreSQL, a bookshop and a sample application that makes the mistakes the rules know."""
