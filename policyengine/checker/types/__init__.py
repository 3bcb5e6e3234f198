"""Types of declared facts and entities, operators, calls and literals."""
