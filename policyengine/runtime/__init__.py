"""What a decision needs at run time: data and small pure helpers, without parser, server, clock or store."""
