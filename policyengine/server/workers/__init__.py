"""Worker processes: forked, replaced, reloaded together."""
