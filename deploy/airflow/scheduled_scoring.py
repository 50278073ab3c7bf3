"""Airflow: each night, score the shards of the day before and renew the report.

The jobs run as commands in an environment of their own (`VCLS_PYTHON`), because Airflow and TensorFlow do not share
one. Each is safe to run again: `--run_id` is the day that a run is for, so a retry or a backfill of a night adds what
is missing and nothing twice; one run at a time, because a scores directory has one writer.

Environment variables: VCLS_PYTHON (the project's interpreter; default `python`), VCLS_HOME (the checkout),
VCLS_INCOMING (directory with one folder a day), VCLS_MODEL, VCLS_SCORES, VCLS_REPORT, VCLS_RUNNER_FLAGS (of Beam, for
instance `--runner=Dataflow --project=… --region=… --temp_location=…`), VCLS_RETRIES (of a task, ten minutes apart;
default 3).
"""

import datetime
import os

from airflow import DAG

try:
    from airflow.providers.standard.operators.bash import BashOperator
except ImportError:  # Airflow 2
    from airflow.operators.bash import BashOperator

PYTHON = os.environ.get("VCLS_PYTHON", "python")
INCOMING = os.environ.get("VCLS_INCOMING", "gs://BUCKET/incoming")
MODEL = os.environ.get("VCLS_MODEL", "gs://BUCKET/models/current")
SCORES = os.environ.get("VCLS_SCORES", "gs://BUCKET/scores/current")
REPORT = os.environ.get("VCLS_REPORT", "gs://BUCKET/report/current")
RUNNER_FLAGS = os.environ.get("VCLS_RUNNER_FLAGS", "")
HOME = os.environ.get("VCLS_HOME", "/opt/video-classification")

with DAG(
    dag_id="scheduled_scoring",
    description="Scores the shards of the day before and renews the report",
    schedule="30 2 * * *",
    start_date=datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc),  # noqa: UP017 (Airflow 2 runs on Python 3.10)
    catchup=False,
    max_active_runs=1,
    default_args={"retries": int(os.environ.get("VCLS_RETRIES", "3")), "retry_delay": datetime.timedelta(minutes=10)},
    tags=["video-classification"],
) as dag:
    score = BashOperator(
        task_id="score",
        cwd=HOME,
        append_env=True,
        # {{ ds }} is the day that the run is for.
        bash_command=f"{PYTHON} -m pipelines.score --input='{INCOMING}/{{{{ ds }}}}/*.tfrecord' --model={MODEL} "
        f"--output={SCORES} --run_id={{{{ ds }}}} {RUNNER_FLAGS}",
    )
    report = BashOperator(
        task_id="report",
        cwd=HOME,
        append_env=True,
        bash_command=f"{PYTHON} -m pipelines.report --scores={SCORES} --model={MODEL} --output={REPORT} --overwrite",
    )
    score >> report
