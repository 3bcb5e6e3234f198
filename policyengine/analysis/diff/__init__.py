"""What changes for requests between two policies."""
