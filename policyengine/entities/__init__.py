"""The directory: entities, their attributes and their membership at any depth."""
