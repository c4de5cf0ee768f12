"""The first schema."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "run",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("config", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("dataset", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("params", sa.BigInteger(), nullable=True),
        sa.Column("params_non_embedding", sa.BigInteger(), nullable=True),
        sa.Column("params_head", sa.BigInteger(), nullable=True),
        sa.Column("params_matmul", sa.BigInteger(), nullable=True),
        sa.Column("flops_train", sa.Float(precision=53), nullable=True),
        sa.Column("flops_ancestors", sa.Float(precision=53), nullable=True),
        sa.Column("flops_total", sa.Float(precision=53), nullable=True),
        sa.Column("flops_paper", sa.Float(precision=53), nullable=True),
        sa.Column("flops_sample", sa.Float(precision=53), nullable=True),
        sa.Column("tokens_train", sa.BigInteger(), nullable=True),
        sa.Column("images_train", sa.BigInteger(), nullable=True),
        sa.Column("iterations", sa.BigInteger(), nullable=True),
        sa.Column("tokens_per_image", sa.BigInteger(), nullable=True),
        sa.Column("codebook_size", sa.BigInteger(), nullable=True),
        sa.Column("train_seed", sa.BigInteger(), nullable=True),
        sa.Column("trunk_id", sa.Text(), nullable=True),
        sa.Column("seconds_train", sa.Float(precision=53), nullable=True),
        sa.Column("gpu_hours", sa.Float(precision=53), nullable=True),
        sa.Column("hardware", sa.Text(), nullable=True),
        sa.Column("endpoint_attempt", sa.Integer(), nullable=True),
        sa.Column("commit", sa.Text(), nullable=True),
        sa.Column("dirty", sa.Boolean(), nullable=True),
        sa.Column("versions", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("finished_at", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_run")),
    )
    op.create_index(op.f("ix_run_kind"), "run", ["kind"], unique=False)
    op.create_table(
        "study",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("plan", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_study")),
    )
    op.create_table(
        "artifact",
        sa.Column("run_id", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("file", sa.Text(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"], name=op.f("fk_artifact_run_id")),
        sa.PrimaryKeyConstraint("run_id", "name", name=op.f("pk_artifact")),
    )
    op.create_table(
        "attempt",
        sa.Column("run_id", sa.String(length=64), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("host", sa.Text(), nullable=True),
        sa.Column("pid", sa.BigInteger(), nullable=True),
        sa.Column("job", sa.Text(), nullable=True),
        sa.Column("executor", sa.Text(), nullable=True),
        sa.Column("commit", sa.Text(), nullable=True),
        sa.Column("dirty", sa.Boolean(), nullable=True),
        sa.Column("versions", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("hardware", sa.Text(), nullable=True),
        sa.Column("started_at", sa.Text(), nullable=True),
        sa.Column("outcome", sa.String(length=16), nullable=True),
        sa.Column("error_class", sa.Text(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("step", sa.BigInteger(), nullable=True),
        sa.Column("ended_at", sa.Text(), nullable=True),
        sa.Column("seconds", sa.Float(precision=53), nullable=True),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"], name=op.f("fk_attempt_run_id")),
        sa.PrimaryKeyConstraint("run_id", "number", name=op.f("pk_attempt")),
    )
    op.create_table(
        "edge",
        sa.Column("child", sa.String(length=64), nullable=False),
        sa.Column("role", sa.String(length=64), nullable=False),
        sa.Column("parent", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(["child"], ["run.id"], name=op.f("fk_edge_child")),
        sa.PrimaryKeyConstraint("child", "role", name=op.f("pk_edge")),
    )
    op.create_index(op.f("ix_edge_parent"), "edge", ["parent"], unique=False)
    op.create_table(
        "endpoint",
        sa.Column("run_id", sa.String(length=64), nullable=False),
        sa.Column("metric", sa.String(length=64), nullable=False),
        sa.Column("provenance_key", sa.String(length=32), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("value", sa.Float(precision=53), nullable=True),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("unit", sa.Text(), nullable=True),
        sa.Column("provenance", sa.JSON(none_as_null=True), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"], name=op.f("fk_endpoint_run_id")),
        sa.PrimaryKeyConstraint("run_id", "metric", "provenance_key", name=op.f("pk_endpoint")),
    )
    op.create_index("ix_endpoint_metric", "endpoint", ["metric"], unique=False)
    op.create_table(
        "member",
        sa.Column("study", sa.String(length=64), nullable=False),
        sa.Column("run_id", sa.String(length=64), nullable=False),
        sa.Column("arm", sa.String(length=64), nullable=False),
        sa.Column("axes_key", sa.String(length=16), nullable=False),
        sa.Column("axes", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("is_primary", sa.Boolean(), nullable=False),
        sa.Column("planned", sa.JSON(none_as_null=True), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"], name=op.f("fk_member_run_id")),
        sa.ForeignKeyConstraint(["study"], ["study.name"], name=op.f("fk_member_study")),
        sa.PrimaryKeyConstraint("study", "run_id", "arm", "axes_key", name=op.f("pk_member")),
    )
    op.create_index(op.f("ix_member_run_id"), "member", ["run_id"], unique=False)


def downgrade() -> None:
    raise NotImplementedError("delete the database and run `tokenlaw sync`")
