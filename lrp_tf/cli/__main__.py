"""`python -m lrp_tf` is the command `lrp-tf`."""

import sys

from lrp_tf.cli import main

if __name__ == "__main__":
    sys.exit(main())
