"""Train FLOPs that a run added to those of the trunk that it took over."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("run", sa.Column("flops_marginal", sa.Float(precision=53), nullable=True))


def downgrade() -> None:
    raise NotImplementedError("delete the database and run `tokenlaw sync`")
