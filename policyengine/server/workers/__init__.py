"""Worker processes: how they are forked, replaced and reloaded together."""
