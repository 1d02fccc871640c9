"""Reading SQL and running it on DuckDB."""
