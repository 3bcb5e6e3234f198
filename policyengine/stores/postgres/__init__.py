"""The store in a PostgreSQL database, shared by the processes of several machines."""
