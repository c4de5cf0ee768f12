BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0004');
CREATE TABLE artifact (
	run_id VARCHAR(64) NOT NULL, 
	name VARCHAR(64) NOT NULL, 
	file TEXT NOT NULL, 
	sha256 VARCHAR(64) NOT NULL, 
	bytes BIGINT NOT NULL, 
	CONSTRAINT pk_artifact PRIMARY KEY (run_id, name), 
	CONSTRAINT fk_artifact_run_id FOREIGN KEY(run_id) REFERENCES run (id)
);
INSERT INTO "artifact" VALUES('codes','a','a.npy','0000000000000000000000000000000000000000000000000000000000000000',1);
CREATE TABLE attempt (
	run_id VARCHAR(64) NOT NULL, 
	number INTEGER NOT NULL, 
	host TEXT, 
	pid BIGINT, 
	job TEXT, 
	executor TEXT, 
	"commit" TEXT, 
	dirty BOOLEAN, 
	versions JSON, 
	hardware TEXT, 
	started_at TEXT, 
	outcome VARCHAR(16), 
	error_class TEXT, 
	error TEXT, 
	step BIGINT, 
	ended_at TEXT, 
	seconds FLOAT, 
	CONSTRAINT pk_attempt PRIMARY KEY (run_id, number), 
	CONSTRAINT fk_attempt_run_id FOREIGN KEY(run_id) REFERENCES run (id)
);
INSERT INTO "attempt" VALUES('codes',1,'vm',17931,NULL,'local','5394873be5100ed2990014e3bbaf286acbe76cad',1,'{"lpips": "0.1.4", "numpy": "2.4.6", "pandas": "3.1.1", "pydantic": "2.14.3", "python": "3.11.7", "pytorch-msssim": "1.0.0", "ray": "2.60.0", "safetensors": "0.8.0", "scikit-learn": "1.9.1", "scipy": "1.17.1", "sqlalchemy": "2.1.9", "submitit": "1.5.4", "torch": "2.15.0", "torch-fidelity": "0.4.0", "torchvision": "0.29.2"}','cpu','2026-11-30T22:12:39.237+00:00','done',NULL,NULL,NULL,'2026-11-30T22:12:39.244+00:00',0.006);
INSERT INTO "attempt" VALUES('gen-crt-S',1,'vm',17931,NULL,'local','5394873be5100ed2990014e3bbaf286acbe76cad',1,'{"lpips": "0.1.4", "numpy": "2.4.6", "pandas": "3.1.1", "pydantic": "2.14.3", "python": "3.11.7", "pytorch-msssim": "1.0.0", "ray": "2.60.0", "safetensors": "0.8.0", "scikit-learn": "1.9.1", "scipy": "1.17.1", "sqlalchemy": "2.1.9", "submitit": "1.5.4", "torch": "2.15.0", "torch-fidelity": "0.4.0", "torchvision": "0.29.2"}','cpu','2026-11-30T22:12:39.230+00:00','done',NULL,NULL,NULL,'2026-11-30T22:12:39.233+00:00',0.002);
INSERT INTO "attempt" VALUES('gen-vq-S',1,'vm',17931,NULL,'local','5394873be5100ed2990014e3bbaf286acbe76cad',1,'{"lpips": "0.1.4", "numpy": "2.4.6", "pandas": "3.1.1", "pydantic": "2.14.3", "python": "3.11.7", "pytorch-msssim": "1.0.0", "ray": "2.60.0", "safetensors": "0.8.0", "scikit-learn": "1.9.1", "scipy": "1.17.1", "sqlalchemy": "2.1.9", "submitit": "1.5.4", "torch": "2.15.0", "torch-fidelity": "0.4.0", "torchvision": "0.29.2"}','cpu','2026-11-30T22:12:39.223+00:00','done',NULL,NULL,NULL,'2026-11-30T22:12:39.227+00:00',0.003);
CREATE TABLE edge (
	child VARCHAR(64) NOT NULL, 
	role VARCHAR(64) NOT NULL, 
	parent VARCHAR(64) NOT NULL, 
	CONSTRAINT pk_edge PRIMARY KEY (child, role), 
	CONSTRAINT fk_edge_child FOREIGN KEY(child) REFERENCES run (id)
);
INSERT INTO "edge" VALUES('gen-crt-S','codes','codes');
INSERT INTO "edge" VALUES('gen-vq-S','codes','codes');
CREATE TABLE endpoint (
	run_id VARCHAR(64) NOT NULL, 
	metric VARCHAR(64) NOT NULL, 
	provenance_key VARCHAR(32) NOT NULL, 
	position INTEGER NOT NULL, 
	value FLOAT, 
	status VARCHAR(16) NOT NULL, 
	unit TEXT, 
	provenance JSON NOT NULL, better VARCHAR(8), 
	CONSTRAINT pk_endpoint PRIMARY KEY (run_id, metric, provenance_key), 
	CONSTRAINT fk_endpoint_run_id FOREIGN KEY(run_id) REFERENCES run (id)
);
INSERT INTO "endpoint" VALUES('codes','code_entropy','44136fa355b3678a1146ad16f7e8649e',0,5.0,'done',NULL,'{}',NULL);
INSERT INTO "endpoint" VALUES('gen-crt-S','val_loss','44136fa355b3678a1146ad16f7e8649e',0,2.25,'done','nats/token','{}','lower');
INSERT INTO "endpoint" VALUES('gen-vq-S','val_loss','44136fa355b3678a1146ad16f7e8649e',0,2.5,'done','nats/token','{}','lower');
CREATE TABLE home (
	id VARCHAR(64) NOT NULL, 
	own BOOLEAN NOT NULL, 
	path TEXT NOT NULL, 
	CONSTRAINT pk_home PRIMARY KEY (id)
);
INSERT INTO "home" VALUES('4564524d99713c42-20eb19',1,'vm:/tmp/tmpbq6oaizb');
CREATE TABLE member (
	study VARCHAR(64) NOT NULL, 
	run_id VARCHAR(64) NOT NULL, 
	arm VARCHAR(64) NOT NULL, 
	axes_key VARCHAR(16) NOT NULL, 
	axes JSON NOT NULL, 
	is_primary BOOLEAN NOT NULL, 
	planned JSON NOT NULL, 
	CONSTRAINT pk_member PRIMARY KEY (study, run_id, arm, axes_key), 
	CONSTRAINT fk_member_run_id FOREIGN KEY(run_id) REFERENCES run (id), 
	CONSTRAINT fk_member_study FOREIGN KEY(study) REFERENCES study (name)
);
INSERT INTO "member" VALUES('old','gen-vq-S','vq','63b2f9c8229101c8','{"size": "S"}',1,'{}');
INSERT INTO "member" VALUES('old','gen-crt-S','crt','63b2f9c8229101c8','{"size": "S"}',1,'{}');
INSERT INTO "member" VALUES('old','codes','vq','44136fa355b3678a','{}',1,'{}');
INSERT INTO "member" VALUES('old','codes','crt','44136fa355b3678a','{}',1,'{}');
CREATE TABLE run (
	id VARCHAR(64) NOT NULL, 
	kind VARCHAR(16) NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	config JSON, 
	dataset TEXT, 
	reason TEXT, 
	params BIGINT, 
	params_non_embedding BIGINT, 
	params_head BIGINT, 
	params_matmul BIGINT, 
	flops_train FLOAT, 
	flops_ancestors FLOAT, 
	flops_total FLOAT, 
	flops_paper FLOAT, 
	flops_sample FLOAT, 
	tokens_train BIGINT, 
	images_train BIGINT, 
	iterations BIGINT, 
	tokens_per_image BIGINT, 
	codebook_size BIGINT, 
	train_seed BIGINT, 
	trunk_id TEXT, 
	seconds_train FLOAT, 
	gpu_hours FLOAT, 
	hardware TEXT, 
	endpoint_attempt INTEGER, 
	"commit" TEXT, 
	dirty BOOLEAN, 
	versions JSON, 
	finished_at TEXT, flops_marginal FLOAT, 
	CONSTRAINT pk_run PRIMARY KEY (id)
);
INSERT INTO "run" VALUES('codes','codes','done','{}',NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,1,'5394873be5100ed2990014e3bbaf286acbe76cad',1,'{"lpips": "0.1.4", "numpy": "2.4.6", "pandas": "3.1.1", "pydantic": "2.14.3", "python": "3.11.7", "pytorch-msssim": "1.0.0", "ray": "2.60.0", "safetensors": "0.8.0", "scikit-learn": "1.9.1", "scipy": "1.17.1", "sqlalchemy": "2.1.9", "submitit": "1.5.4", "torch": "2.15.0", "torch-fidelity": "0.4.0", "torchvision": "0.29.2"}','2026-11-30T22:12:39.238+00:00',NULL);
INSERT INTO "run" VALUES('gen-crt-S','generator','done','{}',NULL,NULL,7,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,1,'5394873be5100ed2990014e3bbaf286acbe76cad',1,'{"lpips": "0.1.4", "numpy": "2.4.6", "pandas": "3.1.1", "pydantic": "2.14.3", "python": "3.11.7", "pytorch-msssim": "1.0.0", "ray": "2.60.0", "safetensors": "0.8.0", "scikit-learn": "1.9.1", "scipy": "1.17.1", "sqlalchemy": "2.1.9", "submitit": "1.5.4", "torch": "2.15.0", "torch-fidelity": "0.4.0", "torchvision": "0.29.2"}','2026-11-30T22:12:39.232+00:00',NULL);
INSERT INTO "run" VALUES('gen-vq-S','generator','done','{}',NULL,NULL,7,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,1,'5394873be5100ed2990014e3bbaf286acbe76cad',1,'{"lpips": "0.1.4", "numpy": "2.4.6", "pandas": "3.1.1", "pydantic": "2.14.3", "python": "3.11.7", "pytorch-msssim": "1.0.0", "ray": "2.60.0", "safetensors": "0.8.0", "scikit-learn": "1.9.1", "scipy": "1.17.1", "sqlalchemy": "2.1.9", "submitit": "1.5.4", "torch": "2.15.0", "torch-fidelity": "0.4.0", "torchvision": "0.29.2"}','2026-11-30T22:12:39.225+00:00',NULL);
CREATE TABLE study (
	name VARCHAR(64) NOT NULL, 
	"plan" VARCHAR(64) NOT NULL, 
	created_at TEXT NOT NULL, 
	CONSTRAINT pk_study PRIMARY KEY (name)
);
INSERT INTO "study" VALUES('old','a3d6989a75f1f7c1','2026-01-01T00:00:00.000+00:00');
CREATE INDEX ix_run_kind ON run (kind);
CREATE INDEX ix_edge_parent ON edge (parent);
CREATE INDEX ix_endpoint_metric ON endpoint (metric);
CREATE INDEX ix_member_run_id ON member (run_id);
COMMIT;
