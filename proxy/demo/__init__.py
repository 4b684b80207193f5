"""`pgtattle demo`: a throw-away PostgreSQL, a bookshop and a sample application full of mistakes."""
