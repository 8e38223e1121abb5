"""`python -m ddpm` is the command `ddpm`."""

import sys

from ddpm.cli.main import main

sys.exit(main())
