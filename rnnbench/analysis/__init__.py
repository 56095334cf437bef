"""From runs to tables: `collect` reads records, `tables` compares them, neither knows torch."""
