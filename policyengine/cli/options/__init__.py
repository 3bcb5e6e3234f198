"""Options that several commands share, and the options of commands with many options."""
