"""A Flink cluster on this machine, of real processes, to run the jobs and their tests on."""
