"""`python -m avhubert_ext.cli`."""

import sys

from avhubert_ext.cli import main

sys.exit(main())
