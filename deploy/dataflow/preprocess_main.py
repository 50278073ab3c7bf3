"""Entry point of the flex template: runs the preprocess job on Dataflow, with the template's parameters as flags."""

import sys

from pipelines.preprocess import run
from vcls_model.commands import main

if __name__ == "__main__":
    sys.argv[1:] = ["--runner=Dataflow", *(flag for flag in sys.argv[1:] if not flag.startswith("--runner="))]
    main(run)
