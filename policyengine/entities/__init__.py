"""The entity store: entities, their attributes and their memberships at any depth."""
