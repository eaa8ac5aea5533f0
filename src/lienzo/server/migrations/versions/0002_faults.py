"""Jobs remember faults that were not their own, and wait after them."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("jobs", sa.Column("faults", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("jobs", sa.Column("due", sa.Float(), nullable=True))
