"""How the jobs are run elsewhere than in one process: clusters, images, schedules."""
