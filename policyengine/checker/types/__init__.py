"""Types: of declared facts and entities, of operators, calls and literals."""
