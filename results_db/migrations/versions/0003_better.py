"""The direction in which a value is better, as its part declared it."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("endpoint", sa.Column("better", sa.String(length=8), nullable=True))


def downgrade() -> None:
    raise NotImplementedError("delete the database and run `tokenlaw sync`")
