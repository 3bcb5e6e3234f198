"""Options that commands share, and those of commands with many."""
