"""The homes that write to the database, so that none removes another's rows."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "home",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("own", sa.Boolean(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_home")),
    )
    # Nobody knows any more which homes the rows that are there came from.
    op.execute(
        "INSERT INTO home (id, own, path)"
        " SELECT 'unknown', true, 'a home of an older version' WHERE EXISTS (SELECT 1 FROM run)"
    )


def downgrade() -> None:
    raise NotImplementedError("delete the database and run `tokenlaw sync`")
