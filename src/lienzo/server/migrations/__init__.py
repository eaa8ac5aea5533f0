"""How the service's database came to look as `schema` says, step by step, for those that are older. Alembic reads this folder."""
