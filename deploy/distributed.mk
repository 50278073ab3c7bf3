# Runs on a Flink cluster of this machine, and the schedule in Airflow. Included by the Makefile.
AIRFLOW_VENV := .venv-airflow

.PHONY: flink-install
flink-install: $(INSTALLED)  ## bring Flink and Beam's job server into .flink (Java 11 or 17 and Maven are needed)
	$(PY) -m deploy.flink.demo --install_only

.PHONY: flink
flink: flink-install  ## the jobs on a Flink cluster of two TaskManagers, compared with the in-process runner
	$(PY) -m deploy.flink.demo

.PHONY: test-flink
test-flink: flink-install  ## the tests on a Flink cluster: same bytes, lost machines, --resume (under 15 minutes)
	$(PY) -m pytest tests/engines -m flink --durations=0

$(AIRFLOW_VENV)/.installed: deploy/airflow/requirements.txt
	test -x $(AIRFLOW_VENV)/bin/python || $(PYTHON) -m venv $(AIRFLOW_VENV)
	$(AIRFLOW_VENV)/bin/python -m pip install --quiet --requirement deploy/airflow/requirements.txt
	@touch $@

.PHONY: test-airflow
test-airflow: $(AIRFLOW_VENV)/.installed  ## the schedule, run by Airflow itself in an environment of its own
	$(AIRFLOW_VENV)/bin/python -m pytest tests/engines/test_airflow.py -m airflow --noconftest
