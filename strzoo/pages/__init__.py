"""Self-contained HTML pages: facts, charts and tables in one file that needs no network."""
