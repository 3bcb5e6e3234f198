"""Options that several commands share, and those of commands with many options."""
