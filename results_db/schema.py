"""The tables of the database, which is an index of the files and can be rebuilt from them."""

from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """Constraints have names, so that migrations can speak of them on every database."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {dict[str, Any]: JSON(none_as_null=True)}


class Study(Base):
    """A study and the plan that defines its members."""

    __tablename__ = "study"

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    plan: Mapped[str] = mapped_column(String(64))  # hash of the current plan file
    created_at: Mapped[str] = mapped_column(Text)  # ISO 8601


class Run(Base):
    """A run, with the columns of its endpoint once it has one."""

    __tablename__ = "run"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    kind: Mapped[str] = mapped_column(String(16), index=True)
    # planned, started, failed, preempted, done, diverged; what is alive now only the files tell
    state: Mapped[str] = mapped_column(String(16))
    config: Mapped[dict[str, Any] | None]
    dataset: Mapped[str | None] = mapped_column(Text)
    reason: Mapped[str | None] = mapped_column(Text)  # why it diverged
    # the endpoint's columns, see endpoint.COLUMNS
    params: Mapped[int | None] = mapped_column(BigInteger)
    params_non_embedding: Mapped[int | None] = mapped_column(BigInteger)
    params_head: Mapped[int | None] = mapped_column(BigInteger)
    params_matmul: Mapped[int | None] = mapped_column(BigInteger)
    flops_train: Mapped[float | None] = mapped_column(Float(53))
    flops_marginal: Mapped[float | None] = mapped_column(Float(53))
    flops_ancestors: Mapped[float | None] = mapped_column(Float(53))
    flops_total: Mapped[float | None] = mapped_column(Float(53))
    flops_paper: Mapped[float | None] = mapped_column(Float(53))
    flops_sample: Mapped[float | None] = mapped_column(Float(53))
    tokens_train: Mapped[int | None] = mapped_column(BigInteger)
    images_train: Mapped[int | None] = mapped_column(BigInteger)
    iterations: Mapped[int | None] = mapped_column(BigInteger)
    tokens_per_image: Mapped[int | None] = mapped_column(BigInteger)
    codebook_size: Mapped[int | None] = mapped_column(BigInteger)
    train_seed: Mapped[int | None] = mapped_column(BigInteger)
    trunk_id: Mapped[str | None] = mapped_column(Text)
    seconds_train: Mapped[float | None] = mapped_column(Float(53))
    gpu_hours: Mapped[float | None] = mapped_column(Float(53))
    hardware: Mapped[str | None] = mapped_column(Text)
    # how the endpoint was made
    endpoint_attempt: Mapped[int | None] = mapped_column(Integer)
    commit: Mapped[str | None] = mapped_column(Text)
    dirty: Mapped[bool | None] = mapped_column(Boolean)
    versions: Mapped[dict[str, Any] | None]
    finished_at: Mapped[str | None] = mapped_column(Text)


class Member(Base):
    """A fact of study x run: the arm and the axes under which a study has a run."""

    __tablename__ = "member"

    study: Mapped[str] = mapped_column(ForeignKey("study.name"), primary_key=True)
    run_id: Mapped[str] = mapped_column(ForeignKey("run.id"), primary_key=True, index=True)
    arm: Mapped[str] = mapped_column(String(64), primary_key=True)
    axes_key: Mapped[str] = mapped_column(String(16), primary_key=True)  # hash of `axes`
    axes: Mapped[dict[str, Any]]
    is_primary: Mapped[bool] = mapped_column(Boolean)  # joined into the wide table
    planned: Mapped[dict[str, Any]]  # params, flops_train, gpu_hours ... as the plan has them


class Edge(Base):
    """`child` was made from `parent`, which served as `role`."""

    __tablename__ = "edge"

    child: Mapped[str] = mapped_column(ForeignKey("run.id"), primary_key=True)
    role: Mapped[str] = mapped_column(String(64), primary_key=True)
    parent: Mapped[str] = mapped_column(String(64), index=True)


class Attempt(Base):
    """One try at a run, as attempts/NNN.json and NNN.end.json tell it."""

    __tablename__ = "attempt"

    run_id: Mapped[str] = mapped_column(ForeignKey("run.id"), primary_key=True)
    number: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    host: Mapped[str | None] = mapped_column(Text)
    pid: Mapped[int | None] = mapped_column(BigInteger)
    job: Mapped[str | None] = mapped_column(Text)
    executor: Mapped[str | None] = mapped_column(Text)
    commit: Mapped[str | None] = mapped_column(Text)
    dirty: Mapped[bool | None] = mapped_column(Boolean)
    versions: Mapped[dict[str, Any] | None]
    hardware: Mapped[str | None] = mapped_column(Text)
    started_at: Mapped[str | None] = mapped_column(Text)
    outcome: Mapped[str | None] = mapped_column(String(16))
    error_class: Mapped[str | None] = mapped_column(Text)
    error: Mapped[str | None] = mapped_column(Text)
    step: Mapped[int | None] = mapped_column(BigInteger)
    ended_at: Mapped[str | None] = mapped_column(Text)
    seconds: Mapped[float | None] = mapped_column(Float(53))


class Endpoint(Base):
    """One value that a run ended with. A value is a finite number, or null in a diverged run."""

    __tablename__ = "endpoint"

    run_id: Mapped[str] = mapped_column(ForeignKey("run.id"), primary_key=True)
    metric: Mapped[str] = mapped_column(String(64), primary_key=True)
    provenance_key: Mapped[str] = mapped_column(String(32), primary_key=True)  # its hash
    position: Mapped[int] = mapped_column(Integer)  # in endpoint.json: the first is the main one
    value: Mapped[float | None] = mapped_column(Float(53))
    status: Mapped[str] = mapped_column(String(16))
    unit: Mapped[str | None] = mapped_column(Text)
    better: Mapped[str | None] = mapped_column(String(8))  # lower or higher
    provenance: Mapped[dict[str, Any]]

    __table_args__ = (Index("ix_endpoint_metric", "metric"),)


class Artifact(Base):
    """A vector or picture that a run left in its folder."""

    __tablename__ = "artifact"

    run_id: Mapped[str] = mapped_column(ForeignKey("run.id"), primary_key=True)
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    file: Mapped[str] = mapped_column(Text)  # relative to the run folder
    sha256: Mapped[str] = mapped_column(String(64))
    bytes: Mapped[int] = mapped_column(BigInteger)


class Home(Base):
    """A home that has written to this database: results_db/home_registry.py says what for."""

    __tablename__ = "home"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    own: Mapped[bool] = mapped_column(Boolean)  # the database was the home's own SQLite file
    path: Mapped[str] = mapped_column(Text)  # for people


OF_A_RUN = (Attempt, Endpoint, Artifact)  # what only the folder of a run can give
